"""How far the streams have come in Postgres: what tells a token from the future from one that we lag behind."""

from collections.abc import Collection
from dataclasses import dataclass

from shared.storage.read_source import Source

#: Both are one row; `name` comes from the stream registry, never from a request.
_LEASES = "SELECT value FROM counters WHERE name = 'lease'"


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """lease: greatest writer number so far; positions: by stream, the greatest position handed out."""

    lease: int
    positions: dict[str, int]


async def get_stream_ends(source: Source, streams: Collection[str]) -> StreamEnds:
    """streams: those with a sequence `stream_<name>`."""
    columns = ", ".join(f"(SELECT last_value FROM stream_{name}) AS {name}" for name in streams)
    row = await source.fetchrow(f"SELECT ({_LEASES}) AS lease, {columns}")
    assert row is not None
    return StreamEnds(row["lease"], {name: row[name] for name in streams})
