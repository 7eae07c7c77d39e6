"""The job that sends delayed events (MSC4140) when they are due.

Their ids decide their shards, and each shard is the duty of one living process. When a process dies, the next holder
repeats what it began, in the same transaction of the room, so nothing is sent twice. The clock is the database's.
"""

import asyncio
import logging
from collections import deque

import msgspec
import orjson

from replication.calls.owner_calls import Ask
from replication.calls.rooms import DelayedEventAnswer, DelayedEventToSend
from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId
from shared.metrics.background import BackgroundMetrics
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import Database
from shared.storage.events.delayed import DueEvent, balance_shards, claim_due_events, finalise_delayed_event

logger = logging.getLogger(__name__)

_CLAIM_EVERY_S = 0.5
_SHARE_EVERY_S = 1.0
_CLAIM = 25  # events of each shard at a time
_MAX_WAITING = 500  # claimed events that are not sent yet; at this number no more are claimed
_ROOMS_AT_A_TIME = 16
#: A room may forget after this time that it sent the event, so the job gives up.
_GIVE_UP_AFTER_MS = 86_400_000
_GAVE_UP = {"errcode": "M_UNKNOWN", "error": "The room could not be reached for a day"}


class DelayedEventSender:
    """Sends the events of a room one after another, in the order of their times. Rooms run concurrently."""

    def __init__(
        self,
        database: Database,
        write: FencedWrite,
        send: Ask[DelayedEventToSend, DelayedEventAnswer],
        tasks: TaskGroup,
        clock: Clock,
        metrics: BackgroundMetrics,
    ) -> None:
        self._database = database
        self._write = write
        self._send_to_room = send
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._waiting: dict[str, deque[DueEvent]] = {}  # room -> events; one task per room
        self._under_way: set[str] = set()  # the delay ids of all waiting events
        self._turns = asyncio.Semaphore(_ROOMS_AT_A_TIME)

    async def run(self) -> None:
        """Send due events. Runs until cancelled."""
        shared_s = -_SHARE_EVERY_S
        while True:
            if self._clock.monotonic_s() - shared_s >= _SHARE_EVERY_S:
                shared_s = self._clock.monotonic_s()
                await balance_shards(self._write)
            if not await self.claim():
                await asyncio.sleep(_CLAIM_EVERY_S)

    async def claim(self) -> bool:
        """Claim due events. Return True if there may be more."""
        if len(self._under_way) >= _MAX_WAITING:
            return False
        due, looked_at = await claim_due_events(self._write, _CLAIM)
        for each in due:
            delay_id, room_id = each.event.delay_id, each.event.room_id
            if delay_id in self._under_way:
                continue
            self._under_way.add(delay_id)
            if room_id in self._waiting:
                self._waiting[room_id].append(each)
            else:
                self._waiting[room_id] = deque([each])
                self._tasks.spawn(self._send_all(room_id), "send delayed events")
        return looked_at > 0

    async def _send_all(self, room_id: RoomId) -> None:
        """Send the waiting events of a room. If it cannot be reached, the rest is claimed again later, in order.

        An event that fails by itself does not hold up those after it. It is claimed again, too.
        """
        waiting = self._waiting[room_id]
        try:
            async with self._turns:
                while waiting:
                    try:
                        await self._send(waiting[0])
                    except Unavailable:
                        raise
                    except Exception as error:
                        delay_id = waiting[0].event.delay_id
                        logger.error("The delayed event %s failed in room %s: %r", delay_id, room_id, error)
                        self._metrics.failures.labels("delayed events").inc()
                    self._under_way.discard(waiting.popleft().event.delay_id)
        except Unavailable as error:
            logger.warning("Delayed events of room %s wait for its owner: %s", room_id, error)
        finally:
            del self._waiting[room_id]
            self._under_way.difference_update(each.event.delay_id for each in waiting)

    async def _send(self, due: DueEvent) -> None:
        event = due.event
        if due.tried_for_ms >= _GIVE_UP_AFTER_MS:
            await finalise_delayed_event(self._database, event.delay_id, None, orjson.dumps(_GAVE_UP))
            return
        to_send = DelayedEventToSend(
            delay_id=event.delay_id,
            sender=event.user_id,
            type=event.type,
            state_key=event.state_key,
            content=msgspec.Raw(event.content),
            sticky_ms=event.sticky_ms,
            again=due.was_tried,
        )
        answer = await self._send_to_room(event.room_id, to_send)
        error = None if answer.event_id is not None else bytes(answer.error)
        await finalise_delayed_event(self._database, event.delay_id, answer.event_id, error)
