"""A request of sliding sync while it waits, the client's progress, and a response that is built for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.core.identifiers import RoomId
from shared.core.sync_tokens.stream_token import StreamToken
from workers.synchrotron.sliding.connection_state import ConnectionState
from workers.synchrotron.sliding.connections import Connection, Shape
from workers.synchrotron.sliding.extensions.extension import Extension, Scope
from workers.synchrotron.sliding.request import SlidingRequest
from workers.synchrotron.sliding.response import SlidingResponse
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import SyncUser


@dataclass(frozen=True, slots=True, kw_only=True)
class EnabledExtension:
    """An extension that a request enables."""

    extension: Extension
    parameters: Any
    scope: Scope
    #: Its bit in SENT_BITS, 0 for an extension that is not `per_room`.
    bit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest:
    """A request, with everything that stays the same while it waits."""

    request: SlidingRequest
    extensions: Sequence[EnabledExtension]
    connection: Connection
    user: SyncUser
    device_id: str | None
    device_created_ms: int
    sent_members: SentMembers
    #: True if the response has unread counts.
    with_counts: bool

    @property
    def shape(self) -> Shape:
        """The parts of a request that select rooms and their contents. Equal requests have equal shapes."""
        return dict(self.request.lists), [(one.extension.name, one.scope) for one in self.extensions]


@dataclass(frozen=True, slots=True)
class Progress:
    """The point up to which the client is up to date."""

    token: StreamToken | None
    #: See `Span.since_seq`.
    seq: int | None
    #: What the client has been sent.
    state: ConnectionState
    #: Rooms, with their lists, that an earlier build of the same shape and state found completely sent. They are
    #: skipped until they have updates.
    settled: Mapping[RoomId, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuiltResponse:
    """A response, and the client's progress if it is sent."""

    response: SlidingResponse
    progress: Progress
    #: True if the client knows all of it.
    empty: bool
