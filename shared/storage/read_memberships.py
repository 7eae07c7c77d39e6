"""Reading who is in which room: a user's rooms, and a room's summary."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.heroes import ABSENT, MAX_HEROES, PRESENT, Member
from shared.storage.escape import escape, unescape
from shared.storage.read_source import Source

#: Uses memberships_by_user and the primary key of rooms.
_OF_USER = """
    SELECT r.room_id, m.room_nid, r.room_version, m.membership, m.event_nid, m.sender, m.ordinal, m.writer, m.position,
           m.forgotten
    FROM memberships m JOIN rooms r USING (room_nid) WHERE m.user_id = $1
"""
#: Uses the primary key of memberships.
_ONE = """
    SELECT r.room_id, m.room_nid, r.room_version, m.membership, m.event_nid, m.sender, m.ordinal, m.writer, m.position,
           m.forgotten
    FROM memberships m JOIN rooms r USING (room_nid) WHERE m.room_nid = $1 AND m.user_id = $2
"""
_COUNTS = """
    SELECT count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'invite')
    FROM memberships WHERE room_nid = $1
"""
#: One more than are named, since the reader himself never is.
_FIRST_MEMBERS = f"""
    SELECT user_id, membership, ordinal FROM memberships WHERE room_nid = $1 AND membership = ANY($2::text[])
    ORDER BY ordinal LIMIT {MAX_HEROES + 1}
"""
#: Uses the primary key of memberships. $2: members of each room; $3: of all.
_SOME_MEMBERS = """
    SELECT DISTINCT x.user_id FROM (
        SELECT m.user_id FROM unnest($1::bigint[]) AS r(room_nid) CROSS JOIN LATERAL (
            SELECT user_id FROM memberships WHERE room_nid = r.room_nid AND membership = 'join' LIMIT $2) AS m
        LIMIT $3) AS x
"""
_MAX_SOME_MEMBERS = 20_000


@dataclass(frozen=True, slots=True)
class RoomMembership:
    """One user's latest m.room.member event in one room; (writer, position): its place in the stream `events`.

    forgotten: he asked not to see the left room any more.
    """

    room_id: str
    room_nid: int
    room_version: str
    membership: str
    event_nid: int
    sender: str
    ordinal: int
    writer: int
    position: int
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class SummaryRecord:
    """joined, invited: numbers of members; first: what `heroes_for` needs of them to name any reader's heroes."""

    joined: int
    invited: int
    first: tuple[Member, ...]


async def get_memberships_of_user(source: Source, user_id: str) -> list[RoomMembership]:
    """Return every room in which the user has, or had, a membership."""
    return [RoomMembership(*row) for row in await source.fetch(_OF_USER, escape(user_id))]


async def get_membership(source: Source, room_nid: int, user_id: str) -> RoomMembership | None:
    row = await source.fetchrow(_ONE, room_nid, escape(user_id))
    return None if row is None else RoomMembership(*row)


async def get_some_members(source: Source, room_nids: Sequence[int], limit: int) -> set[str]:
    """Return members of rooms, at most `limit` of each and 20,000 of all."""
    if not room_nids:
        return set()
    rows = await source.fetch(_SOME_MEMBERS, list(room_nids), limit, _MAX_SOME_MEMBERS)
    return {unescape(row[0]) for row in rows}


async def get_summary(source: Source, room_nid: int) -> SummaryRecord:
    """Return the counts of a room's members, and its first members.

    Spec: client-server API, GET /sync, RoomSummary.
    """
    counts = await source.fetchrow(_COUNTS, room_nid)
    assert counts is not None
    joined, invited = counts
    first = list(await source.fetch(_FIRST_MEMBERS, room_nid, PRESENT))
    if joined + invited <= 1:  # perhaps the reader alone
        first += await source.fetch(_FIRST_MEMBERS, room_nid, ABSENT)
    return SummaryRecord(
        joined, invited, tuple(Member(unescape(user_id), membership, order) for user_id, membership, order in first)
    )
