"""Calls to the owners of rooms and users: find the owner, and try again while the slot moves."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias, TypeVar

import msgspec

from replication.slots.table import SlotTable
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.slots import slot_of
from shared.http.internal_calls import InternalClient, OwnerCall
from shared.runtime.clock import Clock

Takes = TypeVar("Takes")
Returns = TypeVar("Returns")
#: One call, ready to be made: room id or user id, and body, to answer.
Ask: TypeAlias = Callable[[str, Takes], Awaitable[Returns]]

_GIVE_UP_AFTER_S = 5.0
_TRY_AGAIN_AFTER_S = 0.1
_TIMEOUT_S = 30.0
_NOT_THE_OWNER = 421
_UNAVAILABLE = 503


class OwnerCalls:
    """The slot table is a hint: a process that is not the owner says so, and the table is read again."""

    def __init__(self, slots: SlotTable, client: InternalClient, clock: Clock) -> None:
        self._slots = slots
        self._client = client
        self._clock = clock

    async def ask(self, call: OwnerCall[Takes, Returns], key: str, body: Takes) -> Returns:
        """Make a call to the owner of a room id or user id, and return its answer.

        Raises Unavailable when no owner answered within 5 s, and RemoteServerError when the owner refused.
        """
        slot, kind = slot_of(key), call.slot_kind
        path, encoded = call.path_for(key), msgspec.json.encode(body)
        deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
        while True:
            address = self._slots.address(kind, slot)
            if address is not None:
                try:
                    answer = await self._client.send(address, call.method, path, encoded, _TIMEOUT_S)
                except RemoteServerError:
                    answer = None
                if answer is not None and answer.status not in (_NOT_THE_OWNER, _UNAVAILABLE):
                    return call.answer_of(answer)
            if self._clock.monotonic_s() > deadline:
                raise Unavailable(f"No process serves slot {slot} of {kind} at the moment")
            await asyncio.sleep(_TRY_AGAIN_AFTER_S)
            await self._slots.refresh()

    def to(self, call: OwnerCall[Takes, Returns]) -> Ask[Takes, Returns]:
        """Return one call as a function, for code that makes only this one."""
        return partial(self.ask, call)
