"""Run one worker of a type, until SIGTERM.

It registers itself and is given work: nothing lists it anywhere.
"""

import argparse
from dataclasses import replace

from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.command.processes.worker_process import WORKER_TYPES, default_name, run_worker


def configure(parser: argparse.ArgumentParser) -> None:
    types = sorted(name for name in WORKER_TYPES if name != "main")
    parser.add_argument("type", metavar="TYPE", choices=types, help=f"one of {', '.join(types)}")
    add_process_options(parser)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add what `skep main` and `skep worker` have in common."""
    add_config_option(parser)
    parser.add_argument(
        "--name", help="unique in the fleet; a process that comes back under a name takes up its duties again"
    )
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="where to listen; port 0, the default: a free one")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    return run_process(arguments.type, arguments)


def run_process(worker_type: str, arguments: argparse.Namespace) -> int:
    """Run a process of this type with the options of `add_process_options`; return its exit code."""
    config = load_named_config(arguments)
    name = arguments.name or default_name(worker_type)
    if arguments.listen is None:
        return run_worker(worker_type, name, config)
    host, port = _address(arguments.listen)
    if host:
        config = replace(config, workers=replace(config.workers, listen_host=host))
    return run_worker(worker_type, name, config, port)


def _address(text: str) -> tuple[str, int]:
    """Split "[HOST:]PORT"; raises UsageError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen takes [HOST:]PORT with a TCP port from 0 to 65535, not {text!r}.")
    return host.strip("[]"), int(port)
