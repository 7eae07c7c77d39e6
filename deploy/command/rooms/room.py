"""Purge the history of rooms, delete rooms, reclaim the space of unused state. Works on the database directly, in
small steps beside a running fleet; what was interrupted goes on with `skep room continue`.

A purge cannot be undone. State that was replaced leaves the timeline at once and the database ten minutes later, by
`skep room continue` or the next purge. A room is deleted from this server only; let local users leave it first.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, load_named_config
from replication.streams.fenced_writer import FencedWriter
from shared.config.addresses import database_dsn
from shared.config.sections import Config
from shared.operations.paced import paced
from shared.runtime.clock import SystemClock
from shared.storage.engine.pool import Database, connector, passing_as_unavailable
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
from shared.storage.removal.unused_snapshots import Place, reclaim_snapshots

_DAY_MS = 86_400_000
_MARK_ATTEMPTS = 10  # a busy room may take the ordinal before us
_ROOMS_AT_A_TIME = 100

Work = Callable[[Database, Config, argparse.Namespace], Awaitable[int]]


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="room_command", required=True, metavar="COMMAND")
    purge = commands.add_parser("purge", help="delete what is older than some days")
    purge.add_argument("room_id", metavar="ROOM_ID")
    purge.add_argument("--before-days", type=float, required=True, metavar="N", help="what is older, and all before it")
    purge.add_argument(
        "--keep", type=int, default=KEEP_EVENTS, metavar="N",
        help=f"so many of the latest events stay in any case (default {KEEP_EVENTS}, at least 1)",
    )  # fmt: skip
    delete = commands.add_parser("delete", help="delete a room that local users have left")
    delete.add_argument("room_id", metavar="ROOM_ID")
    delete.add_argument("--force", action="store_true", help="though local users are joined; they are not told")
    for each in (purge, delete):
        each.add_argument("--dry-run", action="store_true", help="only say what would go")
    goes_on = commands.add_parser("continue", help="go on with purges and deletions that were interrupted")
    reclaim = commands.add_parser("reclaim-snapshots", help="delete stored states that nothing uses any more")
    for each in (purge, delete, goes_on, reclaim):
        add_config_option(each)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError, RoomHasMembers, Fenced when the fleet ended our lease, Unavailable without a database."""
    config = load_named_config(arguments)
    return asyncio.run(_run(_COMMANDS[arguments.room_command], config, arguments))


async def _run(work: Work, config: Config, arguments: argparse.Namespace) -> int:
    database = Database(connector(database_dsn(config.database), pgbouncer=True), max_connections=1)
    try:
        with passing_as_unavailable():
            return await work(database, config, arguments)
    finally:
        await database.close()


async def _purge(database: Database, config: Config, arguments: argparse.Namespace) -> int:
    if arguments.keep < 1 or arguments.before_days < 0:
        raise UsageError("--keep must be 1 or more, --before-days 0 or more")
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
        print(f"{room_id}: {count} events of the timeline {'would go' if arguments.dry_run else 'to purge'}.")
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
        print(f"{room_id}: {events} events would go; {members} local users are joined.")
        return 0
    async with own_writer(config, "skep-room") as writer:
        for _ in range(_MARK_ATTEMPTS):
            try:
                room_nid = await mark_room_deleted(writer.write, room_id, force=arguments.force)
                break
            except asyncpg.UniqueViolationError:
                continue
        else:
            raise UsageError(f"{room_id} is written into too quickly just now: try again.")
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


async def _reclaim_walks(writer: FencedWriter) -> AsyncIterator[int]:
    in_walk = 1
    while in_walk:
        in_walk = 0
        place: Place | None = Place(-1, -1)
        while place is not None:
            deleted, place = await reclaim_snapshots(writer.write, place)
            in_walk += deleted
            yield deleted


async def _purge_on(database: Database, writer: FencedWriter, room_nid: int) -> None:
    await _show(f"room {room_nid}", purge_batches(writer.write, room_nid))
    progress = await get_purge_progress(database, room_nid)
    if progress is not None:
        then = "" if progress.purge_to is None else " State that was replaced goes later: skep room continue."
        print(f"room {room_nid}: the timeline begins at {progress.first_ordinal}.{then}")


async def _delete_on(database: Database, writer: FencedWriter, room_nid: int, room_id: str) -> None:
    await _show(room_id, delete_room_batches(writer.write, room_nid))
    if any(room.room_nid == room_nid for room in await get_rooms_being_deleted(database, _ROOMS_AT_A_TIME)):
        print(f"{room_id}: rows of it were in use. Go on with: skep room continue.")


async def _show(what: str, batches: AsyncIterator[int]) -> None:
    """Run the batches to their end; tell how far they are where that is a terminal."""
    rows, shown_at = 0, time.monotonic()
    async for deleted in paced(batches, SystemClock()):
        rows += deleted
        if sys.stderr.isatty() and time.monotonic() - shown_at >= 1.0:
            shown_at = time.monotonic()
            print(f"\r{what}: {rows} rows deleted\x1b[K", end="\r", file=sys.stderr, flush=True)
    print(f"{what}: {rows} rows deleted.")


def _no_such_room(room_id: str) -> UsageError:
    return UsageError(f"There is no room {room_id} here. One that is being deleted: skep room continue.")


_COMMANDS: dict[str, Work] = {
    "purge": _purge,
    "delete": _delete,
    "continue": _continue,
    "reclaim-snapshots": _reclaim,
}
