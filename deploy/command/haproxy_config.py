"""Write haproxy's configuration, maps and error pages for an installation: `haproxy -f
DIRECTORY/haproxy.cfg`."""

import argparse
from pathlib import Path

from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.endpoint_table import all_endpoints, all_pools
from deploy.haproxy.generate import write_haproxy_files
from deploy.local.embedded_haproxy import haproxy_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--directory", type=Path, required=True, metavar="DIRECTORY", help="where to write")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    config = load_named_config(arguments)
    sockets = config.haproxy.runtime_sockets
    if not sockets:
        raise UsageError("Set haproxy.runtime_sockets in the configuration: main changes the maps through them.")
    listener = config.listeners.federation
    if config.federation.enabled and listener.tls and listener.certificate_file is None:
        raise UsageError("Set listeners.federation.certificate_file, or listeners.federation.tls: false.")
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    path = write_haproxy_files(
        haproxy_inputs(config, directory, sockets[0], ""), all_endpoints(), all_pools(), directory
    )
    print(path)
    return 0
