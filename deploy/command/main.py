"""The command `skep`. Each subcommand is a module, imported when it is called."""

import argparse
import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from shared.core.errors import SkepError

_DESCRIPTION = """\
Skep, a Matrix homeserver made as a hive of workers.

A fleet is a set of processes that share a PostgreSQL and a Redis, behind haproxy: orchestrators (`skep main`) and
workers of several types (`skep worker TYPE`). `skep up` runs a whole fleet on one machine.
"""
_EXAMPLES = """\
try it on this machine:
  skep up                                      start a fleet; its files are in ./data, Ctrl-C stops it
  skep user register alice                     make an account on it (in another terminal)
  skep status                                  show processes, slots, stream positions

set up a server:
  skep config generate --server-name example.org --directory /etc/skep
  skep config check /etc/skep/skep.yaml        list everything that is wrong with it
  skep migrate --config /etc/skep/skep.yaml    make or upgrade the database's schema
  skep haproxy-config --config /etc/skep/skep.yaml --directory /etc/haproxy/skep
  skep main --config /etc/skep/skep.yaml       run the orchestrator
  skep worker synchrotron --config /etc/skep/skep.yaml
                                               run one worker of a type; to scale, run one more

administer accounts and rooms:
  skep user list                               show all accounts
  skep user reset-password alice               set a password, and log the user out everywhere
  skep registration-token create --uses 1      let one person register
  skep room purge '!busy:example.org' --before-days 90
  skep check rooms --sample 100                replay rooms from their events, and compare

  skep federation check matrix.org             show each step to another server

operate the fleet:
  skep drain event_persister-2                 move its slots to others, then end it
  skep move rooms '!busy:example.org' event_persister-3
                                               move a busy room's slot to another process
  skep rebalance --dry-run                     show what would move, and why

The configuration is --config FILE, else $SKEP_CONFIG, else ./skep.yaml, else ./data/run/skep.yaml, which `skep up`
writes while it runs. `skep COMMAND --help` explains each command.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. Its module has `configure(parser)`, which adds arguments, and `run(arguments)` -> exit code."""

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("up", "deploy.command.processes.up", "run a whole fleet on this machine"),
    Command("main", "deploy.command.processes.orchestrator", "run the orchestrator"),
    Command("worker", "deploy.command.processes.worker", "run one worker of a type"),
    Command("config", "deploy.command.installation.config", "generate, check or describe the configuration"),
    Command("migrate", "deploy.command.installation.migrate", "make or upgrade the database's schema"),
    Command("haproxy-config", "deploy.command.installation.haproxy_config", "write haproxy's configuration and maps"),
    Command("user", "deploy.command.accounts.user", "register, list and change accounts"),
    Command("registration-token", "deploy.command.accounts.registration_token", "make and list registration tokens"),
    Command("room", "deploy.command.rooms.room", "purge the history of rooms, delete rooms"),
    Command("check", "deploy.command.rooms.check", "compare stored rooms with their event graphs"),
    Command("federation", "deploy.command.federation.federation", "find out why another server cannot be reached"),
    Command("status", "deploy.command.inspection.status", "show processes, slots, stream positions and lag"),
    Command("endpoints", "deploy.command.inspection.endpoints", "list every endpoint, its pool and its routing key"),
    Command("drain", "deploy.command.slots.drain", "move a process's slots to others, and end it"),
    Command("undrain", "deploy.command.slots.undrain", "give a drained process slots again"),
    Command("move", "deploy.command.slots.move", "move one slot, such as a busy room's, to a process"),
    Command("rebalance", "deploy.command.slots.rebalance", "even out the slots of all processes"),
)
#: Errors that are the machine's or the operator's, without the name of a file: a full disk, an address in use.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return the exit code: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        "".join(words).encode()
    except UnicodeEncodeError:
        print("skep: the arguments are not valid UTF-8", file=sys.stderr)
        return 2
    parser = _parser(words[0] if words else "")
    parsed = parser.parse_args(words)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 2
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except SkepError as error:
        print(f"skep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except EOFError:
        print("\nskep: the input ended before an answer", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # `skep endpoints | head`: the reader is done, and nothing is wrong
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in _OF_THE_MACHINE:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"skep: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return code


def _parser(called: str) -> argparse.ArgumentParser:
    """Return the parser. Only the module of the called command is imported, so that help is quick."""
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
