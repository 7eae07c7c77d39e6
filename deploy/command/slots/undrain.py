"""Cancel `skep drain`: the process gets slots and requests again, by planned moves."""

import argparse
import asyncio
from pathlib import Path

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, config_path, process_name
from deploy.command.slots.fleet_reader import fleet_reader
from shared.config.load import load_config
from shared.config.sections import Config
from shared.storage.fleet.drains import END_DRAIN, EndDrain, get_drains


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=process_name, metavar="NAME", help="the process, as `skep status` names it")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    path = config_path(arguments)
    return asyncio.run(undrain(load_config(path), path, arguments.name))


async def undrain(config: Config, path: Path, name: str) -> int:
    """Cancel the drain of a process; return the exit code."""
    async with fleet_reader(config, path) as reader:
        drains = await get_drains(reader.database)
        if name not in drains:
            drained = ", ".join(sorted(drains))
            others = f"These are: {drained}." if drained else "No process is."
            raise UsageError(f"{name!r} is not being drained by an operator. {others}")
        async with own_writer(config, "skep-undrain") as writer:
            await writer.write(END_DRAIN, EndDrain(process=name))
    print(f"{name} gets slots again within seconds of being alive.")
    return 0
