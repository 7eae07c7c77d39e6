"""The facts that rooms show to non-members: a few keys of the state, children, numbers of members."""

from collections.abc import Collection, Sequence
from typing import Any

from shared.core.events.event import event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.identifiers import RoomId, UserId
from shared.core.room_summary import CHILD, PERSONAL_TYPES, SUMMARY_TYPES, Erasure, RoomFacts, SpaceChild, Withheld
from shared.core.room_versions import get_room_version
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Source

#: Uses rooms_room_id_key.
_BY_ID = """
    SELECT room_nid, room_id, room_version FROM rooms WHERE room_id = ANY($1::text[]) AND deleted_id IS NULL
"""
#: Uses the primary key of rooms.
_BY_NID = """
    SELECT room_nid, room_id, room_version FROM rooms WHERE room_nid = ANY($1::bigint[]) AND deleted_id IS NULL
"""
#: Uses the primary keys of current_state, events and erased_users.
_STATE = """
    SELECT s.room_nid, s.type, e.event_id, e.json, e.redacted_by IS NOT NULL, coalesce(e.ordinal, 0), u.erased_ms
    FROM current_state s JOIN events e USING (room_nid, event_nid) LEFT JOIN erased_users u ON u.user_id = e.sender
    WHERE s.room_nid = ANY($1::bigint[]) AND s.type = ANY($2::text[]) AND s.state_key = ''
"""
#: Uses memberships_joined, in an index-only scan.
_JOINED = """
    SELECT room_nid, count(*), bool_or(is_local) FROM memberships
    WHERE room_nid = ANY($1::bigint[]) AND membership = 'join' GROUP BY room_nid
"""
#: Uses the primary keys of current_state, events and erased_users. A redacted one has lost its `via`.
_CHILDREN = f"""
    SELECT event_id, state_key, json, ordinal, erased_ms FROM (
        SELECT e.event_id, s.state_key, e.json, coalesce(e.ordinal, 0) AS ordinal, u.erased_ms,
               sum(octet_length(e.json)) OVER (ORDER BY s.state_key) AS bytes
        FROM current_state s JOIN events e USING (room_nid, event_nid) LEFT JOIN erased_users u ON u.user_id = e.sender
        WHERE s.room_nid = $1 AND s.type = '{CHILD}' AND e.redacted_by IS NULL ORDER BY s.state_key LIMIT $2
    ) AS children WHERE bytes <= $3
"""
#: Uses the primary key of memberships.
_MEMBERSHIPS = """
    SELECT r.room_id, m.membership FROM rooms r JOIN memberships m USING (room_nid)
    WHERE r.room_id = ANY($1::text[]) AND m.user_id = $2
"""
#: Uses rooms_published.
_PUBLISHED = "SELECT room_nid FROM rooms WHERE is_public AND deleted_id IS NULL LIMIT $1"
_MAX_CHILDREN = 1000  # of one space
_MAX_CHILDREN_BYTES = 2 << 20  # of their events together; usual ones have half a kilobyte
_ROOMS_PER_READ = 100


async def get_facts(source: Source, room_ids: Collection[RoomId]) -> dict[RoomId, RoomFacts]:
    """Return the facts of those of the rooms that exist here, by id."""
    ids, facts = list(room_ids), dict[RoomId, RoomFacts]()
    for first in range(0, len(ids), _ROOMS_PER_READ):
        facts |= await _facts(source, await source.fetch(_BY_ID, ids[first : first + _ROOMS_PER_READ]))
    return facts


async def get_facts_by_nid(source: Source, room_nids: Collection[int]) -> dict[RoomId, RoomFacts]:
    """Return the facts of rooms given by number."""
    return await _facts(source, await source.fetch(_BY_NID, list(room_nids)))


async def get_joined_counts(source: Source, room_nids: Collection[int]) -> dict[int, int]:
    """Return room number -> number of joined members, of rooms that have any."""
    return {nid: joined for nid, joined, _ in await source.fetch(_JOINED, list(room_nids))}


async def get_published_rooms(source: Source, limit: int) -> list[int]:
    """Return the numbers of the rooms in the directory, in no particular order."""
    return [row[0] for row in await source.fetch(_PUBLISHED, limit)]


async def get_memberships_in(source: Source, room_ids: Collection[RoomId], user_id: UserId) -> dict[RoomId, str]:
    """Return the user's membership in each of the rooms in which they have or had one."""
    return dict(map(tuple, await source.fetch(_MEMBERSHIPS, list(room_ids), user_id)))


async def get_space_children(source: Source, facts: RoomFacts) -> list[tuple[SpaceChild, Erasure | None]]:
    """Return the room's m.space.child events, valid or not, in no particular order.

    At most 1,000, and at most 2 MiB of them. An event of an erased sender comes with its erasure: the reader may not
    see it.
    """
    version, slices = get_room_version(facts.room_version), Slices()
    children = []
    rows = await source.fetch(_CHILDREN, facts.room_nid, _MAX_CHILDREN, _MAX_CHILDREN_BYTES)
    for event_id, state_key, json, ordinal, erased_ms in rows:
        await slices.rest()
        event = event_from_storage(version, json, event_id)
        child = SpaceChild(state_key, event.sender, event.origin_server_ts, event.content)
        children.append((child, None if erased_ms is None else Erasure(ordinal, erased_ms)))
    return children


async def _facts(source: Source, rooms: Sequence[Any]) -> dict[RoomId, RoomFacts]:
    if not rooms:
        return {}
    nids = [nid for nid, _, _ in rooms]
    versions = {nid: get_room_version(version) for nid, _, version in rooms}
    counts = {nid: (joined, resident) for nid, joined, resident in await source.fetch(_JOINED, nids)}
    contents: dict[int, dict[str, Any]] = {nid: {} for nid in nids}
    withheld: dict[int, dict[str, Withheld]] = {nid: {} for nid in nids}
    slices = Slices()
    rows = await source.fetch(_STATE, nids, list(SUMMARY_TYPES))
    for nid, kind, event_id, json, redacted, ordinal, erased_ms in rows:
        await slices.rest()
        pdu = event_from_storage(versions[nid], json, event_id).pdu
        content = (redact_pdu(versions[nid], pdu) if redacted else pdu)["content"]
        if erased_ms is not None and kind in PERSONAL_TYPES:
            withheld[nid][kind] = Withheld(content, Erasure(ordinal, erased_ms))
            content = redact_pdu(versions[nid], pdu)["content"]
        contents[nid][kind] = content
    facts = {}
    for nid, room_id, version in rooms:
        joined, resident = counts.get(nid, (0, False))
        facts[room_id] = RoomFacts(
            room_nid=nid,
            room_id=room_id,
            room_version=version,
            joined=joined,
            resident=resident,
            contents=contents[nid],
            withheld=withheld[nid],
        )
    return facts
