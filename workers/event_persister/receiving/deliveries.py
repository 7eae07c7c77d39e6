"""Deliveries under way, so that a caller may wait for a slow room in turns.

Placing events may take as long as the resolution of the room's state, and a call between processes may not. So the work
belongs to nobody's request: a caller whose time is over is told that it goes on, and the same call again joins it.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from replication.calls.received_events import MAX_WAIT_S, ReceiveAnswer, ReceiveRequest
from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId
from shared.runtime.tasks import TaskGroup

_MAX_UNDER_WAY = 200
#: JSON of the events of all deliveries under way. Decoded, it takes several times as much.
_MAX_BYTES = 64 << 20
#: The time for which a result is kept that nobody has waited for.
_KEPT_S = 60.0


@dataclass(slots=True)
class _Delivery:
    """waiting: the number of callers who wait for it."""

    result: "asyncio.Future[ReceiveAnswer]"
    waiting: int = 0


class Deliveries:
    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._deliveries: dict[tuple[RoomId, bytes], _Delivery] = {}
        self._bytes = 0  # of events of deliveries under way

    async def answer(
        self, room_id: RoomId, request: ReceiveRequest, work: Callable[[], Awaitable[ReceiveAnswer]]
    ) -> ReceiveAnswer:
        """Return the result of the work, or an answer that it goes on.

        work: begun unless the same call is under way, or has ended while nobody waited.
        Raises what the work raises, and Unavailable if too many deliveries are under way.
        """
        key = room_id, hashlib.blake2b(msgspec.msgpack.encode(request.pdus), digest_size=16).digest()
        delivery = self._deliveries.get(key)
        if delivery is None:
            size_bytes = sum(len(bytes(pdu.pdu)) for pdu in request.pdus)
            if len(self._deliveries) >= _MAX_UNDER_WAY or (self._bytes and self._bytes + size_bytes > _MAX_BYTES):
                raise Unavailable("Too many deliveries of events are under way. Try again later")
            delivery = self._deliveries[key] = _Delivery(asyncio.get_running_loop().create_future())
            self._bytes += size_bytes
            self._tasks.spawn(self._run(key, delivery, size_bytes, work), "receive events of other servers")
        delivery.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, min(request.wait_s, MAX_WAIT_S))):
                return await asyncio.shield(delivery.result)
        except TimeoutError:
            if delivery.result.done():
                raise  # of the work
            return ReceiveAnswer(is_finished=False)
        finally:
            delivery.waiting -= 1
            if delivery.result.done():
                self._deliveries.pop(key, None)

    async def _run(
        self,
        key: tuple[RoomId, bytes],
        delivery: _Delivery,
        size_bytes: int,
        work: Callable[[], Awaitable[ReceiveAnswer]],
    ) -> None:
        try:
            delivery.result.set_result(await work())
        except asyncio.CancelledError:
            delivery.result.set_exception(Unavailable("This process ends"))
            raise
        except Exception as error:
            delivery.result.set_exception(error)
        finally:
            self._bytes -= size_bytes
            delivery.result.exception()  # if nobody waits, that is no fault
            if not delivery.waiting:
                asyncio.get_running_loop().call_later(_KEPT_S, self._forget, key, delivery)

    def _forget(self, key: tuple[RoomId, bytes], delivery: _Delivery) -> None:
        if self._deliveries.get(key) is delivery:
            del self._deliveries[key]
