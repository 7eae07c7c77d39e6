"""What an extension of sliding sync is: one more part of the answer, which a client asks for by name.

An extension is one object in `registry.py`. The engine finds it by the name in the request, lets it check its
parameters, and asks it once per look; it is asked again whenever the user has news, so it must be cheap when it has
nothing to tell. What it may keep between answers: `span` says up to where the client was told everything (`since`) and
up to where this answer tells it (`now`); for an extension that is `per_room` the engine also remembers, per connection
and room, whether the client has been told. An extension with a token of its own (`since` in its parameters) needs
neither. Rows that are news must make `SyncUser.version` grow and wake the user, as those of all streams do.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import TimelineEvent
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.sections.joined_section import Span
from workers.synchrotron.users.sync_user import SyncUser


@dataclass(frozen=True, slots=True)
class RoomInScope:
    """A room that the parameters `lists` and `rooms` let in, and that may have something to tell.

    told: the client has been told what this extension had to say of the room up to `span.since`; else it has nothing,
    or something old, and is told all. initial: the room itself is new to the client in this answer.
    timeline: the room's events in this answer.
    """

    room_id: str
    membership: RoomMembership
    told: bool
    initial: bool
    timeline: Sequence[TimelineEvent]


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks an extension, for which part of the streams, and for which rooms.

    span.since None: the connection is new. rooms: those in scope that have news, or of which the client has not been
    told; empty for an extension that is not `per_room`. matched: returns every room that a list's filters let through,
    whatever its ranges, or that is subscribed to: those that the user may see.
    """

    user: SyncUser
    device_id: str | None
    span: Span
    reader: Reader
    rooms: Sequence[RoomInScope]
    matched: Callable[[], Collection[str]]


@dataclass(frozen=True, slots=True)
class Told:
    """body: what stands under the extension's name, None: nothing does. empty: the client knows all of it.

    An answer in which everything is empty is not given before the timeout.
    """

    body: Mapping[str, Any] | None
    empty: bool


NOTHING = Told(None, True)


class Extension(Protocol):
    """One extension. All of the connections' state is the engine's."""

    @property
    def name(self) -> str:
        """The key in `extensions`, in requests and answers."""

    @property
    def per_room(self) -> bool:
        """Whether it tells something of rooms, in the scope of `lists` and `rooms`."""

    def check(self, parameters: Mapping[str, Any]) -> Any:
        """Return the parameters as `tell` gets them. Raises M_BAD_JSON, M_INVALID_PARAM."""

    async def tell(self, asked: Asked, parameters: Any) -> Told: ...
