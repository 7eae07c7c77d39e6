"""`skep endpoints [--json]`: every endpoint as a table: method, path, pool, routing key."""

from collections.abc import Iterator

import orjson

from shared.http.endpoint import Endpoint, RoutingKey, paths_of


def endpoint_rows(endpoints: tuple[Endpoint, ...], *, every_path: bool) -> Iterator[dict[str, object]]:
    """Yield a row per method and path. every_path: also the aliases and versions beside the spec's own path."""
    for endpoint in endpoints:
        paths = paths_of(endpoint)
        for path in paths if every_path else paths[:1]:
            for method in endpoint.methods:
                yield {
                    "method": method,
                    "path": path,
                    "pool": endpoint.pool,
                    "routing_key": "none" if endpoint.routing_key is RoutingKey.NONE else endpoint.routing_key.value,
                    "name": endpoint.name,
                    "auth": endpoint.auth.value,
                    "rate_limit": endpoint.rate_limit.value,
                    "idempotent": endpoint.idempotent,
                    "spec": endpoint.spec,
                }


def endpoints_text(endpoints: tuple[Endpoint, ...], *, as_json: bool) -> str:
    """Return the table: for people with the spec's paths only, as JSON (a list) with every path served."""
    rows = sorted(endpoint_rows(endpoints, every_path=as_json), key=lambda row: (str(row["path"]), str(row["method"])))
    if as_json:
        return orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode()
    columns = ("method", "path", "pool", "routing_key")
    lines = [("METHOD", "PATH", "POOL", "ROUTING KEY"), *(tuple(str(row[c]) for c in columns) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def run_endpoints(endpoints: tuple[Endpoint, ...], *, as_json: bool = False) -> int:
    """Print the table. Returns the exit code."""
    print(endpoints_text(endpoints, as_json=as_json))
    return 0
