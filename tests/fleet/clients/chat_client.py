"""What a test asks of a client, and what a client has seen."""

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
    """body: None for events without one, and once redacted."""

    event_id: str
    sender: str
    type: str
    body: str | None


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as a client shows it.

    events: oldest first; for a joined room all of its history, what /sync left out being paged in.
    members: those who are joined or invited.  receipts: user -> event that they read up to.
    """

    membership: str
    events: tuple[SeenEvent, ...]
    members: Mapping[str, str]
    name: str | None
    topic: str | None
    receipts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """rooms: None where the client knows no such room.  faults: what no correct server causes, in words."""

    rooms: Mapping[str, RoomView | None]
    faults: tuple[str, ...]


class ChatClient(Protocol):
    """Every verb raises ClientError. `options` of a room are the body of /createRoom."""

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
        """As a client does that never got its answer: the bare request, whatever the library knows of it."""

    async def set_state(self, room: str, event_type: str, content: dict[str, Any]) -> str: ...
    async def redact(self, room: str, event: str) -> str: ...
    async def set_typing(self, room: str, typing: bool) -> None: ...
    async def send_receipt(self, room: str, event: str) -> None:
        """Waits until the client has seen the event."""

    async def joined_rooms(self) -> set[str]: ...
    async def wait_membership(self, room: str, membership: str, timeout_s: float) -> None: ...
    async def wait_typing(self, room: str, user: str, typing: bool, timeout_s: float) -> None: ...
    async def view(self, rooms: Iterable[str]) -> View: ...
