"""The interface of a chat client in tests, and the view that it has of its rooms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class ClientError(Exception):
    """The server answered a client's request with an error, or the client gave up."""

    def __init__(self, message: str, status: int | None = None, errcode: str | None = None) -> None:
        super().__init__(f"{status} {errcode}: {message}" if status else message)
        self.status = status
        self.errcode = errcode


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event in a client's timeline.

    body: None for events without one and for redacted events.
    """

    event_id: str
    sender: str
    type: str
    body: str | None


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as a client shows it.

    events: oldest first. A joined room has all of its history: the client pages in what /sync left out.
    members: user id -> "join" or "invite"
    receipts: user id -> latest event that they have read
    """

    membership: str
    events: tuple[SeenEvent, ...]
    members: Mapping[str, str]
    name: str | None
    topic: str | None
    receipts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """All that a client shows.

    rooms: room id -> view; None where the client does not know the room
    faults: observations that no correct server causes, in words
    """

    rooms: Mapping[str, RoomView | None]
    faults: tuple[str, ...]


class ChatClient(Protocol):
    """A client of either library.

    Every method raises ClientError when the server answers with an error. `options` of a room are the body of
    /createRoom.
    """

    username: str
    user_id: str

    async def register(self, password: str) -> None: ...
    async def login(self, password: str) -> None: ...
    async def start(self, timeline_limit: int) -> None: ...
    async def stop(self) -> None: ...
    async def create_room(self, options: dict[str, Any]) -> str: ...
    async def join(self, room_or_alias: str) -> str: ...
    async def leave(self, room: str) -> None: ...
    async def forget(self, room: str) -> None: ...
    async def invite(self, room: str, invitee: str) -> None: ...
    async def send(self, room: str, body: str, transaction_id: str) -> str: ...
    async def send_again(self, room: str, body: str, transaction_id: str) -> str:
        """Send the bare request, past the library, like a client that never got its answer."""

    async def set_state(self, room: str, event_type: str, content: dict[str, Any]) -> str: ...
    async def redact(self, room: str, event: str) -> str: ...
    async def set_typing(self, room: str, typing: bool) -> None: ...
    async def send_receipt(self, room: str, event: str) -> None:
        """Send a read receipt as soon as the client has seen the event."""

    async def joined_rooms(self) -> set[str]: ...
    async def wait_membership(self, room: str, membership: str, timeout_s: float) -> None: ...
    async def wait_typing(self, room: str, user: str, typing: bool, timeout_s: float) -> None: ...
    async def view(self, rooms: Iterable[str]) -> View: ...
