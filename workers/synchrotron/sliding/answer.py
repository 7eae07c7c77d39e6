"""PURE: one answer of sliding sync before it is put into one of the two forms. Spec: MSC4186, "Response Body"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.rooms.timeline_event import TimelineEvent
from workers.synchrotron.rooms.cached_room import StateKey


@dataclass(slots=True)
class RoomAnswer:
    """What is told of one room. Empty or None: unchanged, or nothing, and left out.

    facts: `name`, `avatar` (None: there is none any more) and `heroes` where they are told. removed: keys that left
    the state. stripped: of a room that the user never was in; then all below it is left out.
    events: those of `timeline`, for the extensions.
    """

    membership: str
    initial: bool
    bump_stamp: int
    lists: tuple[str, ...] = ()
    stripped: Sequence[Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    is_dm: bool | None = None
    expanded: bool = False
    state: Sequence[orjson.Fragment] = ()
    removed: Sequence[StateKey] = ()
    timeline: Sequence[orjson.Fragment] = ()
    events: Sequence[TimelineEvent] = ()
    prev_batch: str | None = None
    limited: bool = False
    num_live: int = 0
    joined_count: int | None = None
    invited_count: int | None = None
    counts: tuple[int, int] | None = None  # notifications, highlights
    size_bytes: int = 0  # of the events in it, about


@dataclass(frozen=True, slots=True)
class SlidingAnswer:
    """counts: by list."""

    counts: Mapping[str, int]
    rooms: Mapping[str, RoomAnswer]
    extensions: Mapping[str, Any]


def common_fields(room: RoomAnswer) -> dict[str, Any]:
    """Return what is the same in both forms."""
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
