"""Run a whole fleet on this machine: PostgreSQL, Redis and haproxy from wheels, main, and the workers.

All files of the fleet are below --data. Without --config it writes a configuration for development there: loopback
only, open registration, no limits. Ctrl-C stops everything; the next `skep up` continues with the same data.

  skep up                                                         clients at http://127.0.0.1:8008
  skep up --data other --client-port 8108 --federation-port 8548  a second fleet
  skep up --config /etc/skep/skep.yaml                            your own settings; servers that they name are used
"""

import argparse
from pathlib import Path

from deploy.command.options import tcp_port
from deploy.command.processes.worker_process import WORKER_TYPES, run_worker
from deploy.endpoint_table import all_endpoints, all_pools
from deploy.local.before_start import Wanted
from deploy.local.fleet import Code, run_fleet


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: ./data")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: DIR/skep.yaml, written if absent")
    parser.add_argument("--client-port", type=tcp_port, metavar="N", help="port for clients (8008)")
    parser.add_argument("--federation-port", type=tcp_port, metavar="N", help="port for other servers (8448)")


def run(arguments: argparse.Namespace) -> int:
    """Raises CannotRunHere, ConfigurationError."""
    wanted = Wanted(
        data=arguments.data,
        config=arguments.config,
        client_port=arguments.client_port,
        federation_port=arguments.federation_port,
    )
    modules = tuple(WORKER_TYPES.values())
    return run_fleet(wanted, Code(run_worker=run_worker, modules=modules, endpoints=all_endpoints(), pools=all_pools()))
