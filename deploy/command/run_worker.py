"""Run one worker of a type, until SIGTERM.

It registers itself and is given work: nothing lists it anywhere.
"""

import argparse

from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.command.worker import WORKER_TYPES, default_name, run_worker


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
    parser.add_argument("--listen", metavar="PORT", help="TCP port to listen on; 0, the default: a free one")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    return run_process(arguments.type, arguments)


def run_process(worker_type: str, arguments: argparse.Namespace) -> int:
    """Run a process of this type with the options of `add_process_options`; return its exit code."""
    config = load_named_config(arguments)
    name = arguments.name or default_name(worker_type)
    return run_worker(worker_type, name, config, _port(arguments.listen))


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise UsageError(f"--listen takes a TCP port, 0 to 65535, not {text!r}; the address is `workers.listen_host`.")
    return int(text)
