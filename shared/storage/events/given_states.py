"""States that other servers name as a whole, stored once, before the events that follow them."""

from shared.core.state_snapshots import Snapshot
from shared.storage.engine.arrays import number_array
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.statements import parameters


@parameters
class StoreGivenState:
    """added, removed: numbers of events, as the text of an array."""

    room_nid: int
    nid: int
    base: int
    added: str
    removed: str


STORE_GIVEN_STATE = fenced_statement(
    "store_given_state",
    StoreGivenState,
    {
        "snapshot": """
            INSERT INTO state_snapshots (room_nid, nid, base, steps, added, removed)
            SELECT :room_nid, :nid, :base, 0, (:added)::text::bigint[], (:removed)::text::bigint[] FROM fence""",
    },
)


async def store_given_state(write: FencedWrite, room_nid: int, snapshot: Snapshot) -> None:
    """Store a root snapshot of a room that no event names yet. Unused ones are reclaimed."""
    assert snapshot.base is not None
    await write(
        STORE_GIVEN_STATE,
        StoreGivenState(
            room_nid=room_nid,
            nid=snapshot.nid,
            base=snapshot.base,
            added=number_array(snapshot.added),
            removed=number_array(snapshot.removed),
        ),
    )
