"""Waiting until the owners of rooms have applied a row of a stream.

A user's push rules decide what the next message counts. The owner of the message's room evaluates them, and learns of a
change from a stream. So the request that made the change waits for the owners before it is answered.
"""

import asyncio
import logging

import msgspec

from replication.slots.table import SlotTable
from replication.streams import Stream
from shared.core.errors import RemoteServerError
from shared.http.internal_calls import Empty, InternalClient, ProcessCall

logger = logging.getLogger(__name__)

#: An owner that does not answer for so long is dying or busy. The change is stored and counts there a moment later.
_TIMEOUT_S = 2.0


class WrittenRow(msgspec.Struct, frozen=True):
    """A committed row of a stream that owners of rooms follow."""

    stream: str
    writer: int
    position: int


#: Apply a row, and all rows of its writer before it. Raises M_UNAVAILABLE after a time.
APPLY_ROW = ProcessCall(name="apply_row", path="/_skep/streams/apply", pool="rooms", takes=WrittenRow, returns=Empty)


class RoomOwners:
    """All processes that own slots of rooms. The slot table is a hint: a new owner reads rooms after it was written."""

    def __init__(self, slots: SlotTable, client: InternalClient) -> None:
        self._slots = slots
        self._client = client

    async def wait_until_applied(self, stream: Stream, writer: int, position: int) -> None:
        """Wait until every owner of rooms has applied a row, for two seconds at most."""
        row = WrittenRow(stream.name, writer, position)
        await asyncio.gather(*(self._apply(address, row) for address in self._slots.addresses("rooms")))

    async def _apply(self, address: str, row: WrittenRow) -> None:
        try:
            await self._client.ask(address, APPLY_ROW, row, timeout_s=_TIMEOUT_S)
        except RemoteServerError as error:
            logger.info("%s applies a row of %s later than its writer answers: %s", address, row.stream, error)
