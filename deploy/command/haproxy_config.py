"""`skep haproxy-config`: write haproxy's configuration and maps into a directory, or show the configuration."""

import sys
from pathlib import Path

from deploy.haproxy.generate import HaproxyInputs, render_haproxy_config, write_haproxy_files
from shared.http.endpoint import Endpoint, Pool
from shared.http.endpoint_check import check_endpoints


def run_haproxy_config(
    inputs: HaproxyInputs, endpoints: tuple[Endpoint, ...], pools: tuple[Pool, ...], directory: Path | None
) -> int:
    """Write all files and say how to start haproxy; without a directory print haproxy.cfg. Returns the exit code."""
    try:
        if directory is None:
            check_endpoints(endpoints, pools)
            print(render_haproxy_config(inputs, endpoints, pools), end="")
            return 0
        written = write_haproxy_files(inputs, endpoints, pools, directory)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f'haproxy -W -f "{written}"')
    return 0
