"""List every endpoint of the fleet, as declared: method, path, pool, routing key."""

import argparse

from deploy.command.endpoints import run_endpoints
from deploy.endpoint_table import all_endpoints


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="everything that is declared, for every path served")


def run(arguments: argparse.Namespace) -> int:
    return run_endpoints(all_endpoints(), as_json=arguments.json)
