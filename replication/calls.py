"""Typed requests between workers: what one process asks of the owner of a slot.

They go over HTTP to endpoints below /_skep/, with the fleet's secret; nobody outside can reach these.
"""

import asyncio
from urllib.parse import quote

import msgspec

from replication.slot_table import SlotTable
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.slots import slot_of
from shared.http.client import HttpClient
from shared.http.server import FORWARDED
from shared.runtime import tracing
from shared.runtime.clock import Clock
from shared.runtime.context import request_id

_GIVE_UP_AFTER_S = 5.0
_TRY_AGAIN_AFTER_S = 0.1
_TIMEOUT_S = 30.0
_MISDIRECTED = 421


class MemberProfileChange(msgspec.Struct, frozen=True):
    """The user's profile has changed: show him as it is stored now (so the order of two changes does not matter)."""

    user_id: str


class MemberProfileAnswer(msgspec.Struct, frozen=True):
    """event_id: of the new membership event; None when nothing had to change."""

    event_id: str | None = None


class RoomCalls:
    """Asks the owners of rooms. secret: the fleet's internal secret."""

    def __init__(self, slots: SlotTable, client: HttpClient, clock: Clock, secret: str) -> None:
        self._slots = slots
        self._client = client
        self._clock = clock
        self._authorization = b"Bearer " + secret.encode()

    async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
        """Bring a user's profile, as it is stored now, into his membership. It may be asked again, at any time.

        Raises Unavailable when no owner answered within 5 s.
        """
        path = f"/_skep/rooms/{quote(room_id, safe='')}/member_profile"
        body = await self._ask(room_id, b"PUT", path.encode(), msgspec.json.encode(change))
        return msgspec.json.decode(body, type=MemberProfileAnswer)

    async def _ask(self, room_id: str, method: bytes, path: bytes, body: bytes) -> bytes:
        slot = slot_of(room_id)
        deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
        headers = {
            b"authorization": self._authorization,
            b"content-type": b"application/json",
            FORWARDED: b"1",  # the owner answers, or says 421: it does not pass on
            b"x-request-id": request_id.get().encode(),
            **{name.encode(): value.encode() for name, value in tracing.outgoing_headers().items()},
        }
        while True:
            address = self._slots.address("rooms", slot)
            if address is not None:
                url = b"http://" + address.encode() + path
                try:
                    answer = await self._client.request(method, url, headers, body, timeout_s=_TIMEOUT_S)
                except RemoteServerError:
                    answer = None
                if answer is not None and answer.status == 200:
                    return answer.body
                if answer is not None and answer.status not in (_MISDIRECTED, 503):
                    raise RemoteServerError(f"the owner of a room answered {answer.status}")
            if self._clock.monotonic_s() > deadline:
                raise Unavailable(f"Nobody serves slot {slot} of rooms just now")
            await asyncio.sleep(_TRY_AGAIN_AFTER_S)
            await self._slots.refresh()
