"""What each living writer has stored of late: one side of the comparison that the leader's probe makes."""

from shared.storage.leases import FINAL_POSITIONS
from shared.storage.read_source import Source


def _recent(final_position: str) -> str:
    """From the query of a final position, the same of every living writer, for rows above $1 (an index range)."""
    one = final_position.replace("$1", "w.lease").replace("start_position", "w.above")
    return f"SELECT lease, ({one}) AS position FROM (SELECT lease, $1::bigint AS above FROM heartbeats) w"


#: Each uses the stream's index by position.
_RECENT = {stream: _recent(query) for stream, query in FINAL_POSITIONS.items()}


async def get_stored_positions(source: Source, stream: str, above: int) -> dict[int, int]:
    """Return writer -> the greatest position above `above` that it stored; only those that stored any."""
    rows = await source.fetch(_RECENT[stream], above)
    return {row["lease"]: row["position"] for row in rows if row["position"] is not None}
