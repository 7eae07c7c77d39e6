"""`skep`: the one command. Each subcommand is a module, imported when it is called."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from shared.core.errors import SkepError

_DESCRIPTION = "Skep, a Matrix homeserver made as a hive of workers."
_EXAMPLES = """\
examples:
  skep up --data data                          a whole fleet on this machine, for trying and developing
  skep user register alice                     make an account on it
  skep status                                  who runs, who owns what, who lags behind
  skep check rooms --sample 100                replay rooms: is what is stored what their events give?
  skep config generate --server-name example.org --directory /etc/skep
  skep config check /etc/skep/skep.yaml        everything that is wrong with it, at once
  skep migrate --config /etc/skep/skep.yaml    bring the database up to this release
  skep main --config /etc/skep/skep.yaml       the orchestrator
  skep worker synchrotron --config /etc/skep/skep.yaml
                                               one more of that type; no file lists workers
  skep drain event_persister-2                 hand everything over, then end it
  skep move rooms '!busy:example.org' event_persister-3
                                               one busy room's slot to a process of its own
  skep rebalance --dry-run                     what would move, and why

The configuration is --config FILE, else $SKEP_CONFIG, else ./skep.yaml, else the fleet of `skep up` in ./data.
`skep COMMAND --help` tells more of each.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """module: has `configure(parser)`, which adds arguments, and `run(arguments)`, which returns its code."""

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("up", "deploy.command.processes.up", "run a whole fleet on this machine"),
    Command("main", "deploy.command.processes.orchestrator", "run the orchestrator"),
    Command("worker", "deploy.command.processes.worker", "run one worker of a type"),
    Command("migrate", "deploy.command.installation.migrate", "bring the database up to this release"),
    Command("config", "deploy.command.installation.config", "generate, check or describe the configuration"),
    Command("endpoints", "deploy.command.inspection.endpoints", "list every endpoint, its pool and its routing key"),
    Command("haproxy-config", "deploy.command.installation.haproxy_config", "write haproxy's configuration and maps"),
    Command("user", "deploy.command.accounts.user", "register users"),
    Command("registration-token", "deploy.command.accounts.registration_token", "make and list registration tokens"),
    Command("room", "deploy.command.rooms.room", "purge the history of rooms, delete rooms"),
    Command("check", "deploy.command.rooms.check", "compare what is stored of rooms with their event graphs"),
    Command("drain", "deploy.command.slots.drain", "move a process's slots to others, and end it"),
    Command("undrain", "deploy.command.slots.undrain", "give a drained process slots again"),
    Command("move", "deploy.command.slots.move", "move one slot, such as a busy room's, to a process"),
    Command("rebalance", "deploy.command.slots.rebalance", "even the slots of all processes"),
    Command("status", "deploy.command.inspection.status", "show processes, slots, stream positions and lag"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 could not, 2 not understood, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words[0] if words else "")
    parsed = parser.parse_args(words)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 2
    try:
        code: int = parsed.run(parsed)
    except SkepError as error:
        print(f"skep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # `skep endpoints | head`: nobody reads on, and nothing is wrong
        return 0
    return code


def _parser(called: str) -> argparse.ArgumentParser:
    """Return the parser; only the module of the command that is called is imported, so that help is quick."""
    parser = argparse.ArgumentParser(
        prog="skep",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"skep {version('skep')}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in COMMANDS:
        child = commands.add_parser(
            command.name, help=command.summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if command.name == called:
            module = import_module(command.module)
            child.description = module.__doc__
            module.configure(child)
            child.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
