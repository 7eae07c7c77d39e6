"""List every endpoint of the fleet as a table: method, path, pool, routing key."""

import argparse
from collections.abc import Iterator

import orjson

from deploy.endpoint_table import all_endpoints
from shared.http.endpoint import Endpoint, RoutingKey, paths_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything that is declared, for every path served")


def run(arguments: argparse.Namespace) -> int:
    print(endpoints_text(all_endpoints(), as_json=arguments.json))
    return 0


def endpoint_rows(endpoints: tuple[Endpoint, ...], *, every_path: bool) -> Iterator[dict[str, object]]:
    """Yield a row per method and path. every_path: also the aliases and versions beside the spec's own path."""
    for endpoint in endpoints:
        paths = paths_of(endpoint)
        for path in paths if every_path else paths[:1]:
            yield {
                "method": endpoint.method,
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
