"""What each writer has stored of late: one side of the comparison that the leader's probe makes."""

import re

from shared.storage.leases import FINAL_POSITIONS
from shared.storage.read_source import Source


def _recent(final_position: str) -> str:
    """From the query of a final position: the same of every writer, for rows above $1, each of which is read once."""
    tables = re.findall(r"FROM (\w+) WHERE writer = \$1", final_position)
    rows = " UNION ALL ".join(f"SELECT writer, position FROM {table} WHERE position > $1" for table in tables)
    return f"SELECT writer, max(position) AS position FROM ({rows}) AS recent GROUP BY writer"


#: Each uses the stream's index by position.
_RECENT = {stream: _recent(query) for stream, query in FINAL_POSITIONS.items()}


async def get_stored_positions(source: Source, stream: str, above: int) -> dict[int, int]:
    """Return writer -> the greatest position above `above` that it stored; only those that stored any."""
    return {row["writer"]: row["position"] for row in await source.fetch(_RECENT[stream], above)}
