"""A room as a reader needs it: their membership over time, the history visibility, and the users that they ignore."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import ROOM, RoomRecord
from shared.storage.rooms.state import KEY_HISTORY, KeyChange
from shared.storage.user_data.account_data import IGNORED_LIST, ignored_in

#: All values of one key of the state, oldest first: their ordinals, and their events.
_KEY = """
    SELECT array_agg(h.ordinal ORDER BY h.ordinal) AS ordinals, array_agg(h.json ORDER BY h.ordinal) AS jsons
    FROM ({history}) AS h
"""
_OF_SETTING = KEY_HISTORY.format(room="r.room_nid", type="'m.room.history_visibility'", state_key="''")
_OF_USER = KEY_HISTORY.format(room="r.room_nid", type="'m.room.member'", state_key="$2")
#: Uses the primary keys of memberships, state_changes, events and account_data, beside what ROOM uses.
_FOR_READER = f"""
    SELECT r.*, m.membership, m.forgotten, setting.ordinals, setting.jsons, own.ordinals, own.jsons,
           ({IGNORED_LIST.format(user="$2")})
    FROM ({ROOM}) AS r LEFT JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $2
    CROSS JOIN LATERAL ({_KEY.format(history=_OF_SETTING)}) AS setting
    CROSS JOIN LATERAL ({_KEY.format(history=_OF_USER)}) AS own
"""


@dataclass(frozen=True, slots=True)
class RoomForReader:
    """A room for a reader, at one moment.

    membership: the reader's. None: they never had one.
    forgotten: True if the reader has forgotten the room.
    visibility: every value that m.room.history_visibility has had.
    own_changes: every value that the reader's m.room.member has had.
    ignored: the users that the reader ignores.
    """

    record: RoomRecord
    membership: str | None
    forgotten: bool
    visibility: Sequence[KeyChange]
    own_changes: Sequence[KeyChange]
    ignored: frozenset[UserId]


async def get_room_for_reader(source: Source, room_id: RoomId, user_id: UserId) -> RoomForReader | None:
    """Return the room for a user, None if the room does not exist here."""
    row = await source.fetchrow(_FOR_READER, room_id, user_id)
    if row is None:
        return None
    *record, membership, forgotten, set_at, settings, changed_at, members, ignored = row
    return RoomForReader(
        record=RoomRecord(*record),
        membership=membership,
        forgotten=bool(forgotten),
        visibility=_changes(set_at, settings),
        own_changes=_changes(changed_at, members),
        ignored=frozenset() if ignored is None else frozenset(ignored_in(ignored)),
    )


def _changes(ordinals: Sequence[int] | None, jsons: Sequence[bytes | None] | None) -> list[KeyChange]:
    return [KeyChange(ordinal, json) for ordinal, json in zip(ordinals or (), jsons or (), strict=True)]
