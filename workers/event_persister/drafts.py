"""What is to be written, before and after it became an event."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.core.events import Event

if TYPE_CHECKING:
    from workers.event_persister.live_room import LiveRoom


class RedactionTarget(NamedTuple):
    """The event that a redaction names, as far as the rules ask for it."""

    event_nid: int
    event_id: str
    sender: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An event without its place in the room: it can be built again, on other events, should that be needed.

    device, txn_id: shown to that device of the sender only. target: of a redaction.
    """

    sender: str
    type: str
    state_key: str | None
    content: Mapping[str, Any]
    device: str | None = None
    txn_id: str | None = None
    redacts: str | None = None
    target: RedactionTarget | None = None


@dataclass(frozen=True, slots=True)
class BuiltEvent:
    """An event with its place in the room. ordinal: dense, from 1; prev_nids, auth_nids: what it names.

    replaces_nid: the state event whose place it takes; redacts_nid: the event that it redacts;
    membership: of a member event.
    """

    draft: Draft
    event: Event
    event_nid: int
    ordinal: int
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    replaces_nid: int | None
    redacts_nid: int | None
    membership: str | None


@dataclass(frozen=True, slots=True)
class NewRoom:
    """What is stored with a room's first events. alias: its first alias, or None."""

    creator: str
    is_public: bool
    created_ms: int
    alias: str | None


@dataclass(slots=True, eq=False)
class Write:
    """One client's write: all of its events are stored, or none.

    event_nids: reserved, one per draft. key: of the client's transaction. built: the events, built on the room's
    pending layer; replaced when the room has to build them again. done: the event ids, once they are stored.
    """

    room: "LiveRoom"
    drafts: Sequence[Draft]
    event_nids: Sequence[int]
    done: "asyncio.Future[list[str]]"
    key: bytes | None = None
    new_room: NewRoom | None = None
    built: list[BuiltEvent] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing of it was stored."""
        if not self.done.done():
            self.done.set_exception(error)
            # A client that went away leaves a future that nobody reads: that is no fault.
            self.done.exception()
