"""Memberships: a user's rooms, a room's summary, and the look-ups that a change of membership needs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import orjson

from shared.core.heroes import ABSENT, MAX_HEROES, PRESENT, Member
from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Database, Source
from shared.storage.engine.statements import parameters
from shared.storage.user_data.account_data import blocks_invites


@parameters
class ForgetRoom:
    room_nid: int
    user_id: UserId


#: No stream has this: the user's clients drop the room when they ask for it.
FORGET_ROOM = fenced_statement(
    "forget_room",
    ForgetRoom,
    {
        "forgotten": """
            UPDATE memberships SET forgotten = true FROM fence
            WHERE room_nid = :room_nid AND user_id = :user_id AND membership IN ('leave', 'ban')
            RETURNING 1
        """
    },
    "(SELECT count(*) FROM forgotten) AS forgotten",
)
#: Uses rooms_room_id_key and the primary key of memberships.
_JOINED_ANY = """
    SELECT EXISTS (
        SELECT FROM rooms r JOIN memberships m USING (room_nid)
        WHERE r.room_id = ANY($2::text[]) AND m.user_id = $1 AND m.membership = 'join')
"""
#: Uses the primary key of profiles.
_PROFILES = """
    SELECT user_id, field, value FROM profiles
    WHERE user_id = ANY($1::text[]) AND field IN ('displayname', 'avatar_url')
"""
#: Uses the primary key of account_data.
_INVITE_PERMISSIONS = """
    SELECT user_id, json FROM account_data
    WHERE user_id = ANY($1::text[]) AND room_id = '' AND type = 'm.invite_permission_config' AND json IS NOT NULL
"""
#: Uses the primary keys of memberships and users.
_JOINED_GUESTS = """
    SELECT m.user_id FROM memberships m JOIN users u USING (user_id)
    WHERE m.room_nid = $1 AND m.is_local AND m.membership = 'join' AND u.kind = 'guest'
"""
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
#: Uses memberships_by_user.
_FORGOTTEN = "SELECT room_nid FROM memberships WHERE user_id = $1 AND forgotten"
_COUNTS = """
    SELECT count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'invite')
    FROM memberships WHERE room_nid = $1
"""
#: One more than the heroes, since the reader is never one of them.
_FIRST_MEMBERS = f"""
    SELECT user_id, membership, ordinal FROM memberships WHERE room_nid = $1 AND membership = ANY($2::text[])
    ORDER BY ordinal LIMIT {MAX_HEROES + 1}
"""
#: Uses the primary key of memberships. $2: the most members of each room. $3: of all rooms.
_SOME_MEMBERS = """
    SELECT DISTINCT x.user_id FROM (
        SELECT m.user_id FROM unnest($1::bigint[]) AS r(room_nid) CROSS JOIN LATERAL (
            SELECT user_id FROM memberships WHERE room_nid = r.room_nid AND membership = 'join' LIMIT $2) AS m
        LIMIT $3) AS x
"""
_MAX_SOME_MEMBERS = 20_000


async def forget_room(write: FencedWrite, room_nid: int, user_id: UserId) -> bool:
    """Mark the room as forgotten by the user. Return False if they have not left it. Raises Fenced."""
    row = await write(FORGET_ROOM, ForgetRoom(room_nid=room_nid, user_id=user_id))
    return bool(row["forgotten"])


async def is_joined_to_any(database: Database, user_id: UserId, room_ids: Sequence[RoomId]) -> bool:
    """Return True if the user is joined to at least one of the rooms."""
    return bool(await database.fetchval(_JOINED_ANY, user_id, list(room_ids)))


async def get_member_profiles(database: Database, user_ids: Collection[UserId]) -> dict[UserId, dict[str, str]]:
    """Return `displayname` and `avatar_url` of the users, if they are set, for member events."""
    profiles: dict[UserId, dict[str, str]] = {}
    for user_id, field, value in await database.fetch(_PROFILES, list(user_ids)):
        text = orjson.loads(value)
        if isinstance(text, str) and text:
            profiles.setdefault(user_id, {})[field] = text
    return profiles


async def get_users_blocking_invites(database: Database, user_ids: Collection[UserId]) -> set[UserId]:
    """Return those of the users who block invites. Spec: client-server API, "Invite permission"."""
    rows = await database.fetch(_INVITE_PERMISSIONS, list(user_ids))
    return {user_id for user_id, json in rows if blocks_invites(json)}


async def get_joined_guests(database: Database, room_nid: int) -> list[UserId]:
    """Return the guests of this server who are in the room."""
    return [row[0] for row in await database.fetch(_JOINED_GUESTS, room_nid)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMembership:
    """A user's latest m.room.member event in a room.

    writer, position: its position in the stream `events`.
    forgotten: True if the user has forgotten the room.
    """

    room_id: RoomId
    room_nid: int
    room_version: str
    membership: str
    event_nid: int
    sender: UserId
    ordinal: int
    writer: int
    position: int
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class SummaryRecord:
    """The summary of a room's members. joined, invited: numbers of members. first: those that `heroes_for` needs."""

    joined: int
    invited: int
    first: tuple[Member, ...]


async def get_memberships_of_user(source: Source, user_id: UserId) -> list[RoomMembership]:
    """Return every room in which the user has, or had, a membership."""
    return [RoomMembership(**row) for row in await source.fetch(_OF_USER, user_id)]


async def get_forgotten_rooms(source: Source, user_id: UserId) -> set[int]:
    """Return the numbers of the rooms that the user left and forgot."""
    return {row[0] for row in await source.fetch(_FORGOTTEN, user_id)}


async def get_membership(source: Source, room_nid: int, user_id: UserId) -> RoomMembership | None:
    """Return a user's membership in a room, None if they never had one."""
    row = await source.fetchrow(_ONE, room_nid, user_id)
    return None if row is None else RoomMembership(**row)


async def get_some_members(source: Source, room_nids: Sequence[int], limit: int) -> set[UserId]:
    """Return members of rooms, at most `limit` of each and 20,000 of all."""
    if not room_nids:
        return set()
    rows = await source.fetch(_SOME_MEMBERS, list(room_nids), limit, _MAX_SOME_MEMBERS)
    return {row[0] for row in rows}


async def get_summary(source: Source, room_nid: int) -> SummaryRecord:
    """Return the summary of a room's members. Spec: client-server API, GET /sync, RoomSummary."""
    counts = await source.fetchrow(_COUNTS, room_nid)
    assert counts is not None
    joined, invited = counts
    first = list(await source.fetch(_FIRST_MEMBERS, room_nid, PRESENT))
    if joined + invited <= 1:  # perhaps the reader alone
        first += await source.fetch(_FIRST_MEMBERS, room_nid, ABSENT)
    return SummaryRecord(joined, invited, tuple(Member(*row) for row in first))
