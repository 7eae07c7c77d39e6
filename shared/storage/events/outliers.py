"""Events stored in bulk for their content only: auth events, and the parts of states that other servers name."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import EventId, UserId
from shared.storage.engine.arrays import number_array
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.statements import SmallInt, column_names, columns, parameters

_ARRAYS = ("prev_nids", "auth_nids")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierToStore:
    """One event. status, gap: as in the table `events`. membership: of a member event."""

    room_nid: int
    event_nid: int
    event_id: EventId
    depth: int
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    status: int
    gap: bool
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    json: bytes
    membership: str | None


@columns
class OutlierColumns:
    room_nid: list[int]
    event_nid: list[int]
    event_id: list[EventId]
    depth: list[int]
    type: list[str]
    state_key: list[str | None]
    sender: list[UserId]
    origin_server_ts: list[int]
    status: list[SmallInt]
    gap: list[bool | None]
    prev_nids: list[str]
    auth_nids: list[str]
    json: list[bytes]
    membership: list[str | None]


@parameters
class StoreOutliers:
    events: OutlierColumns


_NAMES = column_names(OutlierColumns)
_VALUES = ", ".join(f"u.{name}::bigint[]" if name in _ARRAYS else f"u.{name}" for name in _NAMES)
STORE_OUTLIERS = fenced_statement(
    "store_outliers",
    StoreOutliers,
    {
        "ev": f"""
            INSERT INTO events (writer, position, {", ".join(_NAMES)})
            SELECT :lease, nextval('stream_events'), {_VALUES}
            FROM fence, unnest(:events.arrays) AS u({", ".join(_NAMES)})""",
    },
)


async def store_outliers(write: FencedWrite, events: Sequence[OutlierToStore]) -> None:
    """Store events that are not here yet.

    Raises asyncpg's errors if the database refuses one of them, for example one that is here. Then none is stored.
    """
    arrays = OutlierColumns(
        room_nid=[e.room_nid for e in events],
        event_nid=[e.event_nid for e in events],
        event_id=[e.event_id for e in events],
        depth=[e.depth for e in events],
        type=[e.type for e in events],
        state_key=[e.state_key for e in events],
        sender=[e.sender for e in events],
        origin_server_ts=[e.origin_server_ts for e in events],
        status=[e.status for e in events],
        gap=[e.gap or None for e in events],
        prev_nids=[number_array(e.prev_nids) for e in events],
        auth_nids=[number_array(e.auth_nids) for e in events],
        json=[e.json for e in events],
        membership=[e.membership for e in events],
    )
    await write(STORE_OUTLIERS, StoreOutliers(events=arrays), streams=("events",))
