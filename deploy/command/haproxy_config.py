"""`skep haproxy-config`: write haproxy's configuration and maps into a directory, or show the configuration."""

import asyncio
import sys
from pathlib import Path

from deploy.haproxy.generate import HaproxyInputs, render_haproxy_config, write_haproxy_files
from shared.http.endpoint import Endpoint, Pool
from shared.http.endpoint_check import check_endpoints
from workers.main.haproxy_layout import slot_pools
from workers.main.haproxy_plan import ProxyState
from workers.main.haproxy_runtime import HaproxyRuntime, ProxyError


def run_haproxy_config(
    inputs: HaproxyInputs, endpoints: tuple[Endpoint, ...], pools: tuple[Pool, ...], directory: Path | None
) -> int:
    """Write all files and say how to start haproxy; without a directory print haproxy.cfg. Returns the exit code.

    The files begin with the servers and owners of slots of the haproxy that answers on the runtime socket, if one
    does: who reloads it then fails no request.
    """
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
    known = "no haproxy answers" if running is None else f"{len(running.servers)} servers of the haproxy that runs"
    print(f"{inputs.runtime_socket}: {known}", file=sys.stderr)
    print(f'haproxy -W -f "{written}"')
    return 0


async def state_of_running(runtime_socket: str, pools: tuple[Pool, ...]) -> ProxyState | None:
    """Return what the haproxy behind this socket has; None when none answers there."""
    try:
        return await HaproxyRuntime(runtime_socket).read_state(slot_pools(pools))
    except ProxyError:
        return None
