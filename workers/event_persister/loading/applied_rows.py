"""Applying rows of the followed streams at the request of their writers, who wait before they answer a client."""

from replication.calls.applied_rows import APPLY_ROW, WrittenRow
from replication.streams import STREAMS
from replication.streams.follower import Follower
from shared.core.errors import Unavailable, bad_json
from shared.core.sync_tokens.vector import Vector
from shared.http.internal_calls import EMPTY, Empty

_TIMEOUT_S = 1.5  # below the limit of the call


class AppliedRows:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    @APPLY_ROW.handler
    async def apply_row(self, row: WrittenRow) -> Empty:
        """Wait for a row of another writer, and read it from the database if it does not arrive."""
        if row.stream not in self._follower.followed:
            raise bad_json(f"This process does not follow {row.stream}")
        wanted = Vector(row.writer, 0, {row.writer: row.position})
        if not await self._follower.wait_for(STREAMS[row.stream], wanted, _TIMEOUT_S):
            raise Unavailable("The row has not arrived")
        return EMPTY
