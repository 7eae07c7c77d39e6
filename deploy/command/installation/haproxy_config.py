"""Write haproxy's configuration, maps and error pages for an installation, or print the configuration alone.

The files begin with the servers and slot owners of the haproxy that answers on the runtime socket, if there is one, so
that a reload fails no request.

  skep haproxy-config --config /etc/skep/skep.yaml --directory /etc/haproxy/skep
  systemctl reload haproxy
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.endpoint_table import all_endpoints, all_pools
from deploy.haproxy.generate import HaproxyInputs, render_haproxy_config, write_haproxy_files
from deploy.local.servers.haproxy import haproxy_inputs
from shared.config.remarks import remarks
from shared.config.sections import Config
from shared.http.endpoint import Endpoint, Pool
from shared.http.endpoint_check import check_endpoints
from workers.main.haproxy_layout import slot_pools
from workers.main.haproxy_plan import ProxyState
from workers.main.haproxy_runtime import HaproxyRuntime, ProxyError


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--directory", type=Path, metavar="DIRECTORY", help="write all files there; without it, print")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, and UsageError with everything that is missing."""
    config = load_named_config(arguments)
    directory: Path | None = arguments.directory
    missing = list(_missing(config, directory))
    if missing:
        raise UsageError("\n".join(missing))
    if directory is not None:
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
    for remark in remarks(config):
        print(remark, file=sys.stderr)
    inputs = haproxy_inputs(config, directory or Path(), config.haproxy.runtime_sockets[0], "")
    return run_haproxy_config(inputs, all_endpoints(), all_pools(), directory)


def _missing(config: Config, directory: Path | None) -> Iterator[str]:
    """Yield a sentence for each setting and option that haproxy's files need and that is missing."""
    listener = config.listeners.federation
    if not config.haproxy.runtime_sockets:
        yield "Set haproxy.runtime_sockets in the configuration: main changes the maps through them."
    if config.federation.enabled and listener.tls and listener.certificate_file is None:
        yield "Set listeners.federation.certificate_file, or listeners.federation.tls: false."
    if directory is None and listener.private_key_file is not None:
        yield "Name a --directory: haproxy needs certificate and key in one file, which is made there."


def run_haproxy_config(
    inputs: HaproxyInputs, endpoints: tuple[Endpoint, ...], pools: tuple[Pool, ...], directory: Path | None
) -> int:
    """Write all files and say how to start haproxy; without a directory print haproxy.cfg. Return the exit code."""
    try:
        if directory is None:
            check_endpoints(endpoints, pools)
            print(render_haproxy_config(inputs, endpoints, pools), end="")
            return 0
        running = asyncio.run(state_of_running(inputs.runtime_socket, pools))
        written = write_haproxy_files(inputs, endpoints, pools, directory, running)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    known = "no haproxy answers" if running is None else f"{len(running.servers)} servers of the running haproxy"
    print(f"{inputs.runtime_socket}: {known}", file=sys.stderr)
    print(f'haproxy -W -f "{written}"')
    return 0


async def state_of_running(runtime_socket: str, pools: tuple[Pool, ...]) -> ProxyState | None:
    """Return the state of the haproxy behind this socket, or None when none answers there."""
    try:
        return await HaproxyRuntime(runtime_socket).read_state(slot_pools(pools))
    except ProxyError:
        return None
