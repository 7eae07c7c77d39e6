"""Take back `skep drain`: the process gets slots and requests again, by planned moves."""

import argparse
import asyncio

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.command.slots.fleet_reader import fleet_reader
from shared.config.sections import Config
from shared.storage.fleet.drains import END_DRAIN, get_drains


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the process, as `skep status` shows it")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    return asyncio.run(undrain(load_named_config(arguments), arguments.name))


async def undrain(config: Config, name: str) -> int:
    async with fleet_reader(config) as reader:
        drains = await get_drains(reader.database)
        if name not in drains:
            drained = ", ".join(sorted(drains)) or "no process is"
            raise UsageError(f"{name!r} is not being drained by an operator. These are: {drained}.")
        async with own_writer(config, "skep-undrain") as writer:
            await writer.write(END_DRAIN, name)
    print(f"{name} gets slots again within seconds, as soon as it is alive.")
    return 0
