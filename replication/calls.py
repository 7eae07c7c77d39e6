"""Typed requests between workers: what one process asks of the owner of a slot.

They go over HTTP to endpoints below /_skep/, with the fleet's secret; nobody outside can reach these.
"""

import asyncio
from urllib.parse import quote

import msgspec

from replication.slots.table import SlotTable
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


class DelayedEventToSend(msgspec.Struct, frozen=True):
    """A delayed event whose time has come, or whose owner wants it now. content: JSON.

    again: somebody asked before, and perhaps it was sent: then the answer is that event.
    """

    delay_id: str
    sender: str
    type: str
    state_key: str | None
    content: msgspec.Raw
    sticky_ms: int | None = None
    again: bool = False


class DelayedEventAnswer(msgspec.Struct, frozen=True):
    """event_id: of the event; None: it can't be sent now, and these are the status and the standard error response."""

    event_id: str | None = None
    status: int = 200
    error: msgspec.Raw = msgspec.Raw(b"{}")


class SuccessorAnswer(msgspec.Struct, frozen=True):
    """refused: why the new room of an upgrade can never be made; None: it is complete."""

    refused: str | None = None


class MemberLeaving(msgspec.Struct, frozen=True):
    """This user of ours leaves, or turns down an invite, or takes back a knock: his account was closed."""

    user_id: str


class RoomSettings(msgspec.Struct, frozen=True):
    """What a user has set for the old room holds for the new one too."""

    old_room_id: str
    new_room_id: str


class ClosedAccount(msgspec.Struct, frozen=True):
    """erase: whether the user's data go, those beside his events."""

    erase: bool


class _SlotCalls:
    """Asks the owners of slots of one kind. secret: the fleet's internal secret."""

    _kind: str

    def __init__(self, slots: SlotTable, client: HttpClient, clock: Clock, secret: str) -> None:
        self._slots = slots
        self._client = client
        self._clock = clock
        self._authorization = b"Bearer " + secret.encode()

    async def _ask(self, key: str, method: bytes, path: bytes, body: bytes) -> bytes:
        """Ask the owner of what `key` (a room id, a user id) belongs to. Raises Unavailable, RemoteServerError."""
        slot = slot_of(key)
        deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
        headers = {
            b"authorization": self._authorization,
            b"content-type": b"application/json",
            FORWARDED: b"1",  # the owner answers, or says 421: it does not pass on
            b"x-request-id": request_id.get().encode(),
            **{name.encode(): value.encode() for name, value in tracing.outgoing_headers().items()},
        }
        while True:
            address = self._slots.address(self._kind, slot)
            if address is not None:
                url = b"http://" + address.encode() + path
                try:
                    answer = await self._client.request(method, url, headers, body, timeout_s=_TIMEOUT_S)
                except RemoteServerError:
                    answer = None
                if answer is not None and answer.status == 200:
                    return answer.body
                if answer is not None and answer.status not in (_MISDIRECTED, 503):
                    raise RemoteServerError(f"the owner of a slot of {self._kind} answered {answer.status}")
            if self._clock.monotonic_s() > deadline:
                raise Unavailable(f"Nobody serves slot {slot} of {self._kind} just now")
            await asyncio.sleep(_TRY_AGAIN_AFTER_S)
            await self._slots.refresh()


class RoomCalls(_SlotCalls):
    """Asks the owners of rooms."""

    _kind = "rooms"

    async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
        """Bring a user's profile, as it is stored now, into his membership. It may be asked again, at any time.

        Raises Unavailable when no owner answered within 5 s.
        """
        path = f"/_skep/rooms/{quote(room_id, safe='')}/member_profile"
        body = await self._ask(room_id, b"PUT", path.encode(), msgspec.json.encode(change))
        return msgspec.json.decode(body, type=MemberProfileAnswer)

    async def send_delayed_event(self, room_id: str, event: DelayedEventToSend) -> DelayedEventAnswer:
        """Send a delayed event, once however often it is asked. Raises as `set_member_profile`, RemoteServerError."""
        path = f"/_skep/rooms/{quote(room_id, safe='')}/delayed_event"
        body = await self._ask(room_id, b"PUT", path.encode(), msgspec.json.encode(event))
        return msgspec.json.decode(body, type=DelayedEventAnswer)

    async def complete_successor(self, room_id: str) -> SuccessorAnswer:
        """Make the new room of an upgrade, as far as that is still to be done. It may be asked again, at any time.

        Raises Unavailable, RemoteServerError: what is missing is not known then.
        """
        path = f"/_skep/rooms/{quote(room_id, safe='')}/successor"
        body = await self._ask(room_id, b"PUT", path.encode(), b"{}")
        return msgspec.json.decode(body, type=SuccessorAnswer)

    async def resume_upgrade(self, room_id: str) -> None:
        """Go on with the upgrade of a room, if one is under way. Raises Unavailable, RemoteServerError."""
        path = f"/_skep/rooms/{quote(room_id, safe='')}/upgrade"
        await self._ask(room_id, b"PUT", path.encode(), b"{}")

    async def remove_guests(self, room_id: str) -> None:
        """Let guests leave who may not be there any more. Raises Unavailable, RemoteServerError."""
        path = f"/_skep/rooms/{quote(room_id, safe='')}/guests"
        await self._ask(room_id, b"PUT", path.encode(), b"{}")

    async def leave_room(self, room_id: str, leaving: MemberLeaving) -> None:
        """Let a user leave. It may be asked again. Raises Unavailable, RemoteServerError."""
        path = f"/_skep/rooms/{quote(room_id, safe='')}/leave"
        await self._ask(room_id, b"PUT", path.encode(), msgspec.json.encode(leaving))


class UserCalls(_SlotCalls):
    """Asks the owners of users' slots."""

    _kind = "users"

    async def copy_room_settings(self, user_id: str, settings: RoomSettings) -> None:
        """Let the user's settings follow him into another room. It may be asked again. Raises as RoomCalls does."""
        path = f"/_skep/users/{quote(user_id, safe='')}/room_settings"
        await self._ask(user_id, b"PUT", path.encode(), msgspec.json.encode(settings))

    async def clear_account(self, user_id: str, account: ClosedAccount) -> None:
        """Remove what a closed account leaves behind, its rooms excepted. It may be asked again. Raises likewise."""
        path = f"/_skep/users/{quote(user_id, safe='')}/closed_account"
        await self._ask(user_id, b"PUT", path.encode(), msgspec.json.encode(account))
