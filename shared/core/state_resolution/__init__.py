"""State resolution: one room state out of those that a fork has made. Spec: rooms/v1, v2 and v12, "State resolution".

Where to read on: `overlays.py` has the form of the states; `v2.py` is the algorithm of room versions 2 to 12, step by
step; `full_conflicted_set.py` and `auth_chains.py` find what must be replayed, `ordering.py` in which order,
`auth_checks.py` replays it; `idle_events.py` and `outcomes.py` save work and change no result. `v1.py` is all of room
version 1.

What the spec leaves open, and how it is read here:

- An event that is cited or held but missing stays where all states agree on it, and is otherwise passed over.
- Events in a circle of `auth_events`, or above one, can't be ordered: the replay leaves them out.
- Of the authorization rules the replay checks those on the room's state; the one on the event's own `auth_events`
  was settled when the event came in (rooms/v2, "Rejected events": such events are in no state).
- The room has one create event, which the caller names: another in some state changes nobody's rights.
"""

from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution
from shared.core.state_resolution.overlays import Overlay, StateKey, lay_upon, overlay_upon
from shared.core.state_resolution.v1 import resolve_v1
from shared.core.state_resolution.v2 import resolve_v2

__all__ = ["Overlay", "StateKey", "resolve", "resolve_overlays"]


def _none_rejected(event_id: EventId) -> bool:
    return False


def _expect_nothing(event_ids: Sequence[EventId]) -> None:
    """The caller has all events at hand."""


def resolve_overlays(
    version: RoomVersion,
    base: Mapping[StateKey, EventId],
    overlays: Sequence[Overlay],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool] = _none_rejected,
    expect: Callable[[Sequence[EventId]], None] = _expect_nothing,
    create: Event,
) -> dict[StateKey, EventId | None]:
    """Return the resolution of some states: (type, state key) -> event id, where it differs from the base; None: the
    key is absent.

    base, overlays: each overlay upon the base is one state (`Overlay`); in any order, doubles allowed; no overlays
        resolve to no state. Neither may change meanwhile.
    find: returns the event with an id, None for one that is missing. It is asked for conflicted events and their
        auth chains, for events that all states agree on where it matters, and for some of them several times: it
        should answer from memory. What it raises passes through; nothing else is raised.
    rejected: whether the event was rejected on receipt; asked for auth events only.
    expect: is told of events that `find` will be asked for soon, so that they can be loaded together.
    create: the room's create event.

    A pure function that keeps nothing: it may run in a thread or a process. Time and memory grow with the overlays
    and with the distinct events in the auth chains of the conflicted ones, not with the number of states times that.
    They grow with the base only where the result hangs on events that are in the auth difference unless some agreed
    event cites them, and where nothing at hand tells (`full_conflicted_set.py`).
    """
    if not overlays:
        return dict.fromkeys(base)
    if version.state_resolution is StateResolution.V1:
        return resolve_v1(version, base, overlays, find, expect=expect, create=create)
    return resolve_v2(version, base, overlays, find, rejected=rejected, expect=expect, create=create)


def resolve(
    version: RoomVersion,
    states: Sequence[Mapping[StateKey, EventId]],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool] = _none_rejected,
    create: Event,
) -> dict[StateKey, EventId]:
    """Return the resolution of the states: (type, state key) -> event id.

    states: the states after each forward branch, in any order, doubles allowed; no states resolve to no state.
    The other parameters, errors and bounds are those of `resolve_overlays`.
    """
    if not states:
        return {}
    base = max(states, key=len)
    distinct = {id(state): state for state in states}.values()
    overlays = [overlay_upon(base, state) for state in distinct]
    return lay_upon(base, resolve_overlays(version, base, overlays, find, rejected=rejected, create=create))
