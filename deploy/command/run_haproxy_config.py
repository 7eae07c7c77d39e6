"""Write haproxy's configuration, maps and error pages for an installation, or print the configuration alone."""

import argparse
from pathlib import Path

from deploy.command.haproxy_config import run_haproxy_config
from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.endpoint_table import all_endpoints, all_pools
from deploy.local.embedded_haproxy import haproxy_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--directory", type=Path, metavar="DIRECTORY", help="where to write; without it, print")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    config = load_named_config(arguments)
    sockets = config.haproxy.runtime_sockets
    if not sockets:
        raise UsageError("Set haproxy.runtime_sockets in the configuration: main changes the maps through them.")
    listener = config.listeners.federation
    if config.federation.enabled and listener.tls and listener.certificate_file is None:
        raise UsageError("Set listeners.federation.certificate_file, or listeners.federation.tls: false.")
    directory: Path | None = arguments.directory
    if directory is not None:
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
    elif listener.private_key_file is not None:
        raise UsageError("Name a --directory: haproxy wants certificate and key in one file, which is made there.")
    inputs = haproxy_inputs(config, directory or Path(), sockets[0], "")
    return run_haproxy_config(inputs, all_endpoints(), all_pools(), directory)
