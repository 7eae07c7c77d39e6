"""Compare stored rooms with their event graphs. Only reads, also while the fleet runs; the exit code is 1 if a room
is wrong.

`skep check rooms` replays each room's event graph: its state, its forward extremities, and that the rules allow every
event. It takes about a second for 7,000 events, and some 2 KiB of memory for each event of the present room. It skips
rooms of more than a million events, and does not see events written while it reads their room.

  skep check rooms --sample 100
  skep check rooms '!busy:example.org' --verbose
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TextIO

import orjson

from deploy.command.opened_database import opened_database
from deploy.command.options import add_config_option, config_path, whole_number
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.identifiers import RoomId
from shared.core.room_check import Finding
from shared.core.signing import parse_signing_key, parse_verify_key
from shared.operations.check_rooms import check_room
from shared.storage.engine.pool import Database
from shared.storage.rooms.for_check import get_room_ids, get_some_room_ids

_ROOMS_AT_A_TIME = 1000
_SHOW_EVERY_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="check_command", required=True, metavar="COMMAND")
    rooms = commands.add_parser("rooms", help="replay rooms, by default all")
    rooms.add_argument("room_ids", nargs="*", metavar="ROOM_ID", help="the rooms to check")
    rooms.add_argument("--sample", type=whole_number(1, 10**9), metavar="N", help="check N rooms, chosen at random")
    rooms.add_argument("--signatures", action="store_true", help="also verify our own signatures (slower)")
    rooms.add_argument("--json", action="store_true", help="print a JSON object for each room with findings")
    rooms.add_argument("--verbose", action="store_true", help="show every room, and notes")
    add_config_option(rooms)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError, and MatrixError for a room that is not here."""
    return asyncio.run(_check(arguments))


async def _check(arguments: argparse.Namespace) -> int:
    path = config_path(arguments)
    config = load_config(path)
    keys = our_verify_keys(config) if arguments.signatures else None
    shown = _Shown(sys.stdout, sys.stderr, as_json=arguments.json, verbose=arguments.verbose)
    async with opened_database(config, path) as database:
        async for room_id in _rooms(database, arguments.room_ids, arguments.sample):
            shown.begin(RoomId(room_id))
            found = await check_room(
                database, RoomId(room_id), server_name=config.server_name, verify_keys=keys, progress=shown.progress
            )
            shown.room(RoomId(room_id), found)
    shown.end()
    return 1 if shown.wrong_rooms else 0


def our_verify_keys(config: Config) -> dict[str, bytes]:
    """Return key id -> public key of every present and former signing key of ours."""
    lines = [line for line in config.signing.key.reveal().splitlines() if line.strip()]
    keys = {key.key_id: key.verify_key for key in map(parse_signing_key, lines)}
    return keys | {old.key_id: parse_verify_key(old.public_key) for old in config.signing.old_keys}


async def _rooms(database: Database, named: Sequence[str], sample: int | None) -> AsyncIterator[str]:
    if named or sample is not None:
        for room_id in named or await get_some_room_ids(database, max(0, sample or 0)):
            yield room_id
        return
    page = await get_room_ids(database, "", _ROOMS_AT_A_TIME)
    while page:
        for room_id in page:
            yield room_id
        page = await get_room_ids(database, page[-1], _ROOMS_AT_A_TIME)


class _Shown:
    """Print findings to `output`, and the progress to `errors` if that is a terminal."""

    def __init__(self, output: TextIO, errors: TextIO, *, as_json: bool, verbose: bool) -> None:
        self._output = output
        self._errors = errors
        self._as_json = as_json
        self._verbose = verbose
        self._advised: set[str] = set()
        self._current = ""
        self._shown_at = time.monotonic()
        self._counts: Counter[str] = Counter()
        self.rooms = 0
        self.wrong_rooms = 0

    def begin(self, room_id: RoomId) -> None:
        self._current = room_id

    def progress(self, events: int) -> None:
        if self._errors.isatty() and time.monotonic() - self._shown_at >= _SHOW_EVERY_S:
            self._shown_at = time.monotonic()
            self._errors.write(f"\r{self.rooms} rooms done; {self._current}: {events} events\x1b[K\r")
            self._errors.flush()

    def room(self, room_id: RoomId, found: Sequence[Finding]) -> None:
        self.rooms += 1
        wrong = [finding for finding in found if not finding.is_note]
        self.wrong_rooms += bool(wrong)
        shown = found if self._verbose or self._as_json else wrong
        self._counts.update(finding.kind for finding in wrong)
        if self._as_json:
            if found or self._verbose:
                self._print(orjson.dumps({"room_id": room_id, "findings": [_as_object(f) for f in found]}).decode())
            return
        if self._verbose and not wrong:
            self._print(f"{room_id}  agrees")
        for finding in shown:
            where = finding.event_id or "the room"
            self._print(f"{room_id}  {finding.kind}{' (note)' if finding.is_note else ''}  {where}: {finding.detail}")
            if finding.kind not in self._advised:
                self._advised.add(finding.kind)
                self._print(f"    {finding.advice}")

    def end(self) -> None:
        counts = ", ".join(f"{count} {kind}" for kind, count in self._counts.most_common())
        what = f"{self.wrong_rooms} do not agree: {counts}" if self.wrong_rooms else "all agree"
        if not self._as_json:
            self._print(f"{self.rooms} rooms checked, {what}.")

    def _print(self, line: str) -> None:
        print(line, file=self._output, flush=True)


def _as_object(finding: Finding) -> dict[str, object]:
    return {
        "kind": finding.kind,
        "event_id": finding.event_id,
        "detail": finding.detail,
        "is_note": finding.is_note,
        "advice": finding.advice,
    }
