"""Extensions of sliding sync: parts of a response that a client asks for by name.

The engine finds an extension by its name in the request, lets it check its parameters, and builds its part once per
build of the response. That happens again whenever the user has updates, so an extension without updates must be cheap.

`span` says up to where the client has everything (`since`) and up to where this response goes (`now`). For a `per_room`
extension, the engine also remembers by connection and room if its part was sent. An extension with a token of its own
(`since` in its parameters) needs neither. Rows that an extension sends must increase `SyncUser.version` and wake the
user, as the rows of all streams do.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from shared.core.identifiers import RoomId
from shared.http.request import convert
from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import TimelineEvent
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.sections.span import Span
from workers.synchrotron.users.sync_user import SyncUser

#: The bit of each `per_room` extension in `SentRoom.sent_bits`. Stored connections hold these bits, so a bit is never
#: given to another extension.
SENT_BITS: Mapping[str, int] = {"account_data": 1, "receipts": 2, "typing": 4, "org.matrix.msc4354.sticky_events": 8}

_ALL = "*"


class _ScopeParameters(msgspec.Struct):
    enabled: bool = False
    lists: list[str] | None = None
    rooms: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """PURE: the rooms that an extension covers. Spec: MSC4508 and MSC3575, "Extensions": `lists` and `rooms`."""

    #: The rooms within the ranges of these lists. None: of all lists.
    lists: frozenset[str] | None = None
    #: Those of these rooms that are subscribed to. None: all of them.
    rooms: frozenset[str] | None = None

    def has(self, room_id: RoomId, lists: Collection[str], subscribed: bool) -> bool:
        if subscribed and (self.rooms is None or room_id in self.rooms):
            return True
        return bool(lists) and (self.lists is None or not self.lists.isdisjoint(lists))


def parse_scope(parameters: Mapping[str, Any]) -> Scope | None:
    """Return None for an extension that is not enabled. Raises M_BAD_JSON."""
    parsed = convert(parameters, _ScopeParameters)
    return Scope(_names(parsed.lists), _names(parsed.rooms)) if parsed.enabled else None


def _names(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None or _ALL in names else frozenset(names)


@dataclass(slots=True, kw_only=True)
class RoomInScope:
    """A room in an extension's scope that may have something to send."""

    room_id: RoomId
    membership: RoomMembership
    #: True if the client has everything of the room up to `span.since`. False: the extension sends all of it.
    was_sent: bool
    #: True if the room itself is new to the client in this response.
    initial: bool
    #: The room's events in this response.
    timeline: Sequence[TimelineEvent]


@dataclass(slots=True, kw_only=True)
class ExtensionContext:
    """The response that an extension's part is built for."""

    user: SyncUser
    device_id: str | None
    #: `span.since` is None on a new connection.
    span: Span
    reader: Reader
    #: The rooms in scope with updates, or not sent yet. Empty for an extension that is not `per_room`.
    rooms: Sequence[RoomInScope]
    #: Return every room that passes a list's filters, whatever its ranges, or is subscribed to.
    matched: Callable[[], Collection[RoomId]]


@dataclass(frozen=True, slots=True)
class ExtensionResult:
    """An extension's part of a response."""

    #: The value of the extension's key. None: the key is left out.
    body: Mapping[str, Any] | None
    #: True if the client knows all of it. A response with empty parts only is not sent before the timeout.
    empty: bool


NO_RESULT = ExtensionResult(None, True)


class Extension(Protocol):
    """One extension. The engine keeps all state of connections."""

    @property
    def name(self) -> str:
        """The key in `extensions`, in requests and responses."""

    @property
    def per_room(self) -> bool:
        """True if it sends data of rooms, in the scope of `lists` and `rooms`."""

    def check(self, parameters: Mapping[str, Any]) -> Any:
        """Return the parameters as `build` takes them. Raises M_BAD_JSON, M_INVALID_PARAM."""

    async def build(self, context: ExtensionContext, parameters: Any) -> ExtensionResult: ...


class Extensions:
    """The extensions of this server by name."""

    def __init__(self, extensions: Iterable[Extension]) -> None:
        """Raises ValueError for a `per_room` extension without a bit."""
        self._by_name = {extension.name: extension for extension in extensions}
        for extension in self:
            if extension.per_room and extension.name not in SENT_BITS:
                raise ValueError(f"{extension.name} has no bit in SENT_BITS")

    def __iter__(self) -> Iterator[Extension]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Extension | None:
        """Return an extension, None for an unknown name, whose parameters are ignored."""
        return self._by_name.get(name)
