"""Run the orchestrator until SIGTERM. Several may run: one leads, the others stand by."""

import argparse

from deploy.command.processes.worker import add_process_options, run_process


def configure(parser: argparse.ArgumentParser) -> None:
    add_process_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    return run_process("main", arguments)
