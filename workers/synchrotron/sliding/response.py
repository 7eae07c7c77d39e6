"""PURE: one response of sliding sync, before it is written in one of the two forms. Spec: MSC4186, "Response Body"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.core.identifiers import RoomId
from shared.rooms.timeline_event import TimelineEvent
from workers.synchrotron.rooms.cached_room import StateKey


@dataclass(slots=True, kw_only=True)
class RoomResult:
    """One room of a response. Empty and None fields are left out, since nothing changed."""

    membership: str
    initial: bool
    bump_stamp: int = 0
    #: The lists that the room is in.
    lists: tuple[str, ...] = ()
    #: The stripped state of a room that the user never was in. Then none of the fields below is set.
    stripped: Sequence[Any] | None = None
    #: The user's member event that ended their invitation or knock, where `stripped` tells of one that is over.
    ended: Sequence[orjson.Fragment] = ()
    #: `name`, `avatar` and `heroes` where they changed. None as an avatar: it was removed.
    facts: dict[str, Any] = field(default_factory=dict)
    is_dm: bool | None = None
    expanded: bool = False
    state: Sequence[orjson.Fragment] = ()
    #: The keys that left the state.
    removed: Sequence[StateKey] = ()
    timeline: Sequence[orjson.Fragment] = ()
    #: The events of `timeline`, for the extensions.
    events: Sequence[TimelineEvent] = ()
    prev_batch: str | None = None
    limited: bool = False
    num_live: int = 0
    joined_count: int | None = None
    invited_count: int | None = None
    #: Notifications and highlights.
    counts: tuple[int, int] | None = None
    #: The approximate size of the events.
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlidingResponse:
    """A whole response."""

    #: The number of rooms by list.
    counts: Mapping[str, int]
    rooms: Mapping[RoomId, RoomResult]
    extensions: Mapping[str, Any]


def common_fields(room: RoomResult) -> dict[str, Any]:
    """Return the fields that are the same in both forms."""
    fields: dict[str, Any] = {"bump_stamp": room.bump_stamp, **room.facts}
    if room.initial:
        fields["initial"] = True
    if room.is_dm is not None:
        fields["is_dm"] = room.is_dm
    if room.state:
        fields["required_state"] = room.state
    if room.timeline:
        fields["timeline"] = room.timeline
        fields["num_live"] = room.num_live
    if room.prev_batch is not None:
        fields["prev_batch"] = room.prev_batch
    if room.limited:
        fields["limited"] = True
    if room.joined_count is not None:
        fields["joined_count"] = room.joined_count
        fields["invited_count"] = room.invited_count
    return fields
