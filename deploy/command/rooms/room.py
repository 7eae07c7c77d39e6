"""Purge the history of rooms, delete rooms, reclaim the space of unused state, and let parked rooms be tried again.

The commands work on the database directly, in small steps, also while the fleet runs. `skep room continue` resumes
interrupted ones. A purge cannot be undone. Replaced state leaves the timeline at once, and the database ten minutes
later, with `skep room continue` or the next purge. A room is deleted from this server only; local users should leave it
first.

A room is parked if its state cannot be resolved within the limits of a process (`caches.resolutions_bytes`). Events
that need a resolution are refused until `skep room retry` lets it be tried again.

  skep room purge '!busy:example.org' --before-days 90 --dry-run
  skep room delete '!old:example.org'
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import asyncpg

from deploy.command.command_lease import own_writer
from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError, add_config_option, config_path, days, whole_number
from replication.streams.fenced_writer import FencedWriter
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.identifiers import RoomId
from shared.operations.paced import paced
from shared.runtime.clock import SystemClock
from shared.storage.engine.pool import Database, transient_as_unavailable
from shared.storage.events.timeline import get_room
from shared.storage.removal.delete_room import (
    count_room,
    delete_room_batches,
    get_rooms_being_deleted,
    mark_room_deleted,
)
from shared.storage.removal.purge import (
    KEEP_EVENTS,
    get_ordinal_of_time,
    get_purge_progress,
    get_rooms_to_purge,
    purge_batches,
    start_purge,
)
from shared.storage.removal.unused_snapshots import SnapshotKey, reclaim_snapshots
from shared.storage.rooms.parked import count_parked_rooms, get_parked_rooms, release_room

_DAY_MS = 86_400_000
_MARK_ATTEMPTS = 10  # a busy room may take the ordinal before us
_ROOMS_AT_A_TIME = 100
_MAX_LISTED = 1000

Work = Callable[[Database, Config, argparse.Namespace], Awaitable[int]]


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="room_command", required=True, metavar="COMMAND")
    purge = commands.add_parser("purge", help="delete events older than some days")
    purge.add_argument("room_id", metavar="ROOM_ID")
    purge.add_argument("--before-days", type=days, required=True, metavar="N", help="delete events older than N days")
    purge.add_argument(
        "--keep",
        type=whole_number(1, 2**31),
        default=KEEP_EVENTS,
        metavar="N",
        help=f"always keep the latest N events (default {KEEP_EVENTS}, at least 1)",
    )
    delete = commands.add_parser("delete", help="delete a room that all local users have left")
    delete.add_argument("room_id", metavar="ROOM_ID")
    delete.add_argument("--force", action="store_true", help="even if local users are joined; they get no notice")
    for each in (purge, delete):
        each.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    goes_on = commands.add_parser("continue", help="resume interrupted purges and deletions")
    reclaim = commands.add_parser("reclaim-snapshots", help="delete state snapshots that nothing uses any more")
    parked = commands.add_parser("parked", help="list rooms whose state cannot be resolved within the limits")
    retry = commands.add_parser("retry", help="let the state of a parked room be resolved again")
    retry.add_argument("room_id", metavar="ROOM_ID")
    for each in (purge, delete, goes_on, reclaim, parked, retry):
        add_config_option(each)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError, RoomHasMembers, and Fenced if the fleet ended our lease."""
    return asyncio.run(_run(_COMMANDS[arguments.room_command], arguments))


async def _run(work: Work, arguments: argparse.Namespace) -> int:
    path = config_path(arguments)
    config = load_config(path)
    async with opened_database(config, path) as database:
        with transient_as_unavailable():
            return await work(database, config, arguments)


async def _purge(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    room_id = arguments.room_id
    room = await get_room(database, room_id)
    progress = None if room is None else await get_purge_progress(database, room.room_nid)
    if room is None or progress is None:
        raise _no_such_room(room_id)
    now_ms = SystemClock().now_ms()
    before_ms = now_ms - int(arguments.before_days * _DAY_MS)
    wanted = await get_ordinal_of_time(database, room.room_nid, before_ms, now_ms)
    wanted = min(wanted, progress.last_ordinal + 1 - arguments.keep)
    count = max(0, wanted - progress.first_ordinal)
    if arguments.dry_run or not count:
        print(f"{room_id}: {count} events of the timeline {'would be purged' if arguments.dry_run else 'to purge'}.")
        return 0
    async with own_writer(config, "skep-room") as writer:
        await start_purge(writer.write, room.room_nid, wanted, keep_events=arguments.keep)
        await _purge_on(database, writer, room.room_nid)
    return 0


async def _delete(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    room_id = arguments.room_id
    room = await get_room(database, room_id)
    if room is None:
        raise _no_such_room(room_id)
    if arguments.dry_run:
        events, members = await count_room(database, room.room_nid)
        print(f"{room_id}: {events} events would be deleted; {members} local users are joined.")
        return 0
    async with own_writer(config, "skep-room") as writer:
        for _ in range(_MARK_ATTEMPTS):
            try:
                room_nid = await mark_room_deleted(writer.write, room_id, force=arguments.force)
                break
            except asyncpg.UniqueViolationError:
                continue
        else:
            raise UsageError(f"{room_id} receives events too quickly at present: try again.")
        if room_nid is not None:
            await _delete_on(database, writer, room_nid, room_id)
    return 0


async def _continue(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    async with own_writer(config, "skep-room") as writer:
        for room in await get_rooms_being_deleted(database, _ROOMS_AT_A_TIME):
            await _delete_on(database, writer, room.room_nid, room.room_id)
        above = 0
        while rooms := await get_rooms_to_purge(database, above, _ROOMS_AT_A_TIME):
            for room_nid in rooms:
                await _purge_on(database, writer, room_nid)
            above = rooms[-1]
    return 0


async def _reclaim(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    async with own_writer(config, "skep-room") as writer:
        await _show("snapshots", _reclaim_walks(writer))
    return 0


async def _parked(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    rooms = await get_parked_rooms(database, _MAX_LISTED)
    for room in rooms:
        since = datetime.fromtimestamp(room.parked_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        print(f"{room.room_id}  since {since} UTC: {room.parked_reason}")
    count = await count_parked_rooms(database)
    print(f"{count} rooms are parked." if count != 1 else "1 room is parked.")
    return 0


async def _retry(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    async with own_writer(config, "skep-room") as writer:
        if not await release_room(writer.write, arguments.room_id):
            raise UsageError(f"{arguments.room_id} is not parked. To list the rooms that are: skep room parked.")
    print(f"{arguments.room_id}: its state may be resolved again, within seconds.")
    return 0


async def _reclaim_walks(writer: FencedWriter) -> AsyncIterator[int]:
    in_walk = 1
    while in_walk:
        in_walk = 0
        place: SnapshotKey | None = SnapshotKey(-1, -1)
        while place is not None:
            deleted, place = await reclaim_snapshots(writer.write, place)
            in_walk += deleted
            yield deleted


async def _purge_on(database: Database, writer: FencedWriter, room_nid: int) -> None:
    await _show(f"room {room_nid}", purge_batches(writer.write, room_nid))
    progress = await get_purge_progress(database, room_nid)
    if progress is not None:
        then = "" if progress.purge_to is None else " Replaced state is deleted later: skep room continue."
        print(f"room {room_nid}: the timeline begins at {progress.first_ordinal}.{then}")


async def _delete_on(database: Database, writer: FencedWriter, room_nid: int, room_id: RoomId) -> None:
    await _show(room_id, delete_room_batches(writer.write, room_nid))
    if any(room.room_nid == room_nid for room in await get_rooms_being_deleted(database, _ROOMS_AT_A_TIME)):
        print(f"{room_id}: some of its rows were in use. Resume with: skep room continue.")


async def _show(what: str, batches: AsyncIterator[int]) -> None:
    """Run the batches to their end, and show their progress on a terminal."""
    rows, shown_at = 0, time.monotonic()
    async for deleted in paced(batches, SystemClock()):
        rows += deleted
        if sys.stderr.isatty() and time.monotonic() - shown_at >= 1.0:
            shown_at = time.monotonic()
            print(f"\r{what}: {rows} rows deleted\x1b[K", end="\r", file=sys.stderr, flush=True)
    print(f"{what}: {rows} rows deleted.")


def _no_such_room(room_id: RoomId) -> UsageError:
    return UsageError(f"There is no room {room_id} here. To resume its deletion: skep room continue.")


_COMMANDS: dict[str, Work] = {
    "purge": _purge,
    "delete": _delete,
    "continue": _continue,
    "reclaim-snapshots": _reclaim,
    "parked": _parked,
    "retry": _retry,
}
