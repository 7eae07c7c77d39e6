"""Checks of stored rooms against their event graphs. A room is read from one snapshot of the database."""

from collections.abc import Callable, Mapping

from shared.core.errors import SkepError, not_found
from shared.core.identifiers import RoomId
from shared.core.room_check import Finding, Findings, RoomLoader, StoredRoom, check_stored_room
from shared.core.room_check.findings import MAX_OF_A_KIND
from shared.core.room_versions import get_room_version
from shared.storage.engine.pool import Database, Source
from shared.storage.events.graph import get_gaps
from shared.storage.push.totals_check import get_wrong_totals
from shared.storage.rooms.for_check import (
    get_all_awaited_redactions,
    get_event_pages,
    get_extremities,
    get_line,
    get_membership_rows,
    get_room_to_check,
    get_snapshots,
    get_state_numbers,
    get_transaction_answers,
)

#: The largest room to check, in events: some 2 GiB of memory. A larger one could exhaust the host's memory.
MAX_EVENTS = 1_000_000


def _no_progress(events: int) -> None:
    """Do nothing."""


async def check_room(
    database: Database,
    room_id: RoomId,
    *,
    server_name: str,
    verify_keys: Mapping[str, bytes] | None = None,
    progress: Callable[[int], None] = _no_progress,
    max_events: int = MAX_EVENTS,
) -> list[Finding]:
    """Return the disagreements of the stored room with its event graph, with notes among them (`Finding.is_note`).

    verify_keys: key id -> public key of this server, to check its signatures too (0.1 ms each). None skips them.
    progress: called with the number of events read after each page.
    This blocks the thread for some 0.15 ms per event, so it is for a command, not for a worker.
    Raises MatrixError M_NOT_FOUND for an unknown room, Unavailable if the database is down.
    """
    findings = Findings()
    async with database.snapshot() as snapshot:
        row = await get_room_to_check(snapshot, room_id)
        if row is None:
            raise not_found(f"There is no room {room_id} here")
        room_nid, version_name, count = row
        try:
            room = StoredRoom(room_id, get_room_version(version_name))
        except SkepError:
            findings.add("room_row", None, f"the room version {version_name!r} is unknown")
            return findings.all()
        if count > max_events:
            findings.add("too_big", None, f"has {count} events; the limit is {max_events}")
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
            text = f"the totals at ordinal {ordinal} of group {group} in thread {thread_id!r} are wrong"
            findings.add("push_counters", None, text)
    check_stored_room(room, findings)
    return findings.all()


async def _read_rest(source: Source, room_nid: int, room: StoredRoom) -> None:
    room.line = await get_line(source, room_nid)
    room.current_state = await get_state_numbers(source, room_nid)
    room.extremities = await get_extremities(source, room_nid)
    room.memberships = await get_membership_rows(source, room_nid)
    room.snapshots = await get_snapshots(source, room_nid)
    room.gaps = dict(await get_gaps(source, room_nid))
    room.awaited = await get_all_awaited_redactions(source, room_nid)
    room.transactions = await get_transaction_answers(source, room_nid)
