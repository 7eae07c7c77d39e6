"""Rooms whose state cannot be resolved within the limits.

Trying again would cost the same each time, and hold up other rooms. So such a room is parked: what needs a resolution
is refused at once, and everything else goes on. An operator lets it be tried again (`skep room retry`), perhaps after a
purge or with a larger budget. This process learns of that from the room's row.
"""

import logging

from shared.core.errors import Unavailable
from shared.metrics.resolution import ResolutionMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import Database
from shared.storage.rooms.parked import get_parked_reason, park_room
from workers.event_persister.graph.resolution_events import TooLong, TooMuch
from workers.event_persister.room.live_room import LiveRoom, Parked

logger = logging.getLogger(__name__)

#: Resolutions of a room that take too long, in a row, before it is parked.
_MAX_TOO_LONG = 3
_READ_AGAIN_AFTER_S = 5.0
_RETRY_AFTER_S = 600.0


class RoomParked(Unavailable):
    """The state of the room cannot be resolved within the limits."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"This room is parked, an operator must look at it: {reason}", _RETRY_AFTER_S)


class ParkedRooms:
    def __init__(self, database: Database, write: FencedWrite, clock: Clock, metrics: ResolutionMetrics) -> None:
        self._database = database
        self._write = write
        self._clock = clock
        self._metrics = metrics

    async def check(self, room: LiveRoom) -> None:
        """Raise RoomParked if the room is parked. Usually one look at an attribute."""
        if room.parked is None:
            return
        now_s = self._clock.monotonic_s()
        if now_s - room.parked.read_s >= _READ_AGAIN_AFTER_S:
            reason = await get_parked_reason(self._database, room.room_nid)
            room.parked = None if reason is None else Parked(reason, now_s)
        if room.parked is not None:
            raise RoomParked(room.parked.reason)

    def resolved(self, room: LiveRoom) -> None:
        """Note that the room's state was resolved."""
        room.too_long = 0

    async def refused(self, room: LiveRoom, error: TooMuch | TooLong) -> None:
        """Park a room if its resolution was refused for good. Raises RoomParked then."""
        if isinstance(error, TooLong):
            room.too_long += 1
            if room.too_long < _MAX_TOO_LONG:
                return
        reason = str(error)
        room.too_long = 0
        room.parked = Parked(reason, self._clock.monotonic_s())
        self._metrics.parked.inc()
        logger.error("Room %s is parked: %s. Try again with: skep room retry '%s'", room.room_id, reason, room.room_id)
        await park_room(self._write, room.room_nid, reason)
        raise RoomParked(reason) from error
