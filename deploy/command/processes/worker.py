"""Run one worker of a type until SIGTERM.

It registers itself and receives work. No file lists workers: to scale a type, start one more.

  skep worker synchrotron
  skep worker event_persister --name event_persister-host2-1 --listen 10.0.0.2:0
"""

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path

from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError, add_config_option, config_path, process_name
from deploy.command.processes.worker_process import WORKER_TYPES, default_name, run_worker
from shared.config.addresses import redis_is_named
from shared.config.hosts import is_host
from shared.config.load import load_config
from shared.config.sections import Config


def configure(parser: argparse.ArgumentParser) -> None:
    types = sorted(name for name in WORKER_TYPES if name != "main")
    parser.add_argument("type", metavar="TYPE", choices=types, help=f"one of {', '.join(types)}")
    add_process_options(parser)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `skep main` and `skep worker` share."""
    add_config_option(parser)
    parser.add_argument(
        "--name",
        type=process_name,
        help="unique in the fleet; a process that starts again under its name gets its slots back",
    )
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="address to listen at; port 0, the default: a free one")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    return run_process(arguments.type, arguments)


def run_process(worker_type: str, arguments: argparse.Namespace) -> int:
    """Run a process of this type with the options of `add_process_options`; return its exit code."""
    path = config_path(arguments)
    config = load_config(path)
    if not redis_is_named(config.redis):
        raise UsageError(f"{path} names no Redis: set redis.host, redis.url or redis.sentinel.")
    name = arguments.name or default_name(worker_type)
    host, port = ("", None) if arguments.listen is None else _address(arguments.listen)
    asyncio.run(_check_database(config, path))
    if host:
        config = replace(config, workers=replace(config.workers, listen_host=host))
    return run_worker(worker_type, name, config, port)


async def _check_database(config: Config, path: Path) -> None:
    """Raise UsageError if the process could not join the fleet: a sentence is better than its traceback."""
    async with opened_database(config, path):
        pass


def _address(text: str) -> tuple[str, int]:
    """Split "[HOST:]PORT"; raises UsageError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdecimal() and len(port) < 6 and int(port) <= 65535
    if not is_port or (host and not is_host(host)):
        raise UsageError(f"--listen takes [HOST:]PORT with a TCP port from 0 to 65535, not {text!r}.")
    return host, int(port)
