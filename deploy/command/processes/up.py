"""Run a whole fleet on this machine: PostgreSQL, Redis and haproxy from wheels, main, and the workers.

Everything that it needs and writes stands below --data. Without --config a configuration for trying and
developing is made there: loopback only, open registration, no limits. Ctrl-C ends all of it.
"""

import argparse
from pathlib import Path

from deploy.command.processes.worker_process import WORKER_TYPES, run_worker
from deploy.endpoint_table import all_endpoints, all_pools
from deploy.local.before_start import Wanted
from deploy.local.fleet import Code, run_fleet


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: ./data")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: DIR/skep.yaml, made if absent")
    parser.add_argument("--client-port", type=int, metavar="N", help="port for clients (8008)")
    parser.add_argument("--federation-port", type=int, metavar="N", help="port for other servers (8448)")


def run(arguments: argparse.Namespace) -> int:
    """Raises CannotRunHere, ConfigurationError."""
    wanted = Wanted(arguments.data, arguments.config, arguments.client_port, arguments.federation_port)
    modules = tuple(WORKER_TYPES.values())
    return run_fleet(wanted, Code(run_worker, modules, all_endpoints(), all_pools()))
