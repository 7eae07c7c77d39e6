"""List every endpoint of the fleet, as declared: methods, path, pool, routing key, who may call it."""

import argparse
import json
from collections.abc import Iterator

from deploy.endpoint_table import all_endpoints
from shared.http.endpoint import Endpoint, paths_of

_COLUMNS = ("methods", "path", "name", "pool", "routing key", "auth", "rate limit", "retry")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all-paths", action="store_true", help="also the paths of older versions")
    parser.add_argument("--json", action="store_true", help="one JSON list, with all paths")


def run(arguments: argparse.Namespace) -> int:
    endpoints = all_endpoints()
    if arguments.json:
        print(json.dumps([_record(endpoint) for endpoint in endpoints], indent=1))
        return 0
    rows = [_COLUMNS, *(row for each in endpoints for row in _rows(each, arguments.all_paths))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _rows(endpoint: Endpoint, all_paths: bool) -> Iterator[tuple[str, ...]]:
    paths = paths_of(endpoint)
    for path in paths if all_paths else paths[:1]:
        yield (
            ",".join(endpoint.methods),
            path,
            endpoint.name,
            endpoint.pool,
            endpoint.routing_key.value or "-",
            endpoint.auth.value,
            endpoint.rate_limit.value,
            "yes" if endpoint.idempotent else "no",
        )


def _record(endpoint: Endpoint) -> dict[str, object]:
    return {
        "name": endpoint.name,
        "methods": list(endpoint.methods),
        "paths": list(paths_of(endpoint)),
        "pool": endpoint.pool,
        "routing_key": endpoint.routing_key.value,
        "auth": endpoint.auth.value,
        "rate_limit": endpoint.rate_limit.value,
        "idempotent": endpoint.idempotent,
        "body_limit_bytes": endpoint.body_limit_bytes,
        "spec": endpoint.spec,
    }
