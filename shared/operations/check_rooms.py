"""Checking stored rooms against their event graphs: reads a room from one snapshot of the database, writes nothing."""

from collections.abc import Callable, Mapping

from shared.core.errors import SkepError, not_found
from shared.core.room_check import Finding, Findings, RoomLoader, StoredRoom, check_stored_room
from shared.core.room_check.findings import MAX_OF_A_KIND
from shared.core.room_versions import get_room_version
from shared.storage.engine.parameters import unescape
from shared.storage.engine.pool import Database, Source
from shared.storage.events.graph import get_gaps
from shared.storage.push.totals_check import get_wrong_totals
from shared.storage.rooms.whole_rooms import (
    get_all_awaited_redactions,
    get_event_pages,
    get_extremities,
    get_membership_rows,
    get_snapshots,
    get_state_numbers,
    get_transaction_answers,
    get_whole_line,
    get_whole_room,
)

#: Events of a room that is checked: some 2 GiB of memory. Beyond that a check would take the host down with it.
MAX_EVENTS = 1_000_000


def _count_nothing(events: int) -> None:
    """Nobody wants to know how far it is."""


async def check_room(
    database: Database,
    room_id: str,
    *,
    server_name: str,
    verify_keys: Mapping[str, bytes] | None = None,
    progress: Callable[[int], None] = _count_nothing,
    max_events: int = MAX_EVENTS,
) -> list[Finding]:
    """Return where what is stored of the room disagrees with its event graph; notes among them (`Finding.is_note`).

    verify_keys: key id -> our public key, to check our signatures too (0.1 ms each); None: they are not checked.
    progress: called with the number of events read after each page.
    Holds the thread for some 0.15 ms per event: a command's work, not a worker's.
    Raises MatrixError M_NOT_FOUND for a room that we do not have, Unavailable when the database is away.
    """
    findings = Findings()
    async with database.snapshot() as snapshot:
        row = await get_whole_room(snapshot, room_id)
        if row is None:
            raise not_found(f"There is no room {room_id} here")
        room_nid, version_name, count = row
        try:
            room = StoredRoom(room_id, get_room_version(version_name))
        except SkepError:
            findings.add("room_row", None, f"nobody knows the room version {version_name!r}")
            return findings.all()
        if count > max_events:
            findings.add("too_big", None, f"has {count} events, {max_events} are the limit")
            return findings.all()
        loader = RoomLoader(room, findings, server_name, verify_keys)
        read = 0
        async for page in get_event_pages(snapshot, room_nid):
            for columns in page:
                loader.add(columns)
            read += len(page)
            progress(read)
        await _read_rest(snapshot, room_nid, room)
        for ordinal, group, thread_id in await get_wrong_totals(snapshot, room_nid, MAX_OF_A_KIND):
            text = f"the totals at ordinal {ordinal} of group {group} in thread {unescape(thread_id)!r} are wrong"
            findings.add("push_counters", None, text)
    check_stored_room(room, findings)
    return findings.all()


async def _read_rest(source: Source, room_nid: int, room: StoredRoom) -> None:
    room.line = await get_whole_line(source, room_nid)
    room.current_state = await get_state_numbers(source, room_nid)
    room.extremities = await get_extremities(source, room_nid)
    room.memberships = await get_membership_rows(source, room_nid)
    room.snapshots = await get_snapshots(source, room_nid)
    room.gaps = dict(await get_gaps(source, room_nid))
    room.awaited = await get_all_awaited_redactions(source, room_nid)
    room.transactions = await get_transaction_answers(source, room_nid)
