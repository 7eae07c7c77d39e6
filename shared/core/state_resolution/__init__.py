"""State resolution: one room state out of those that a fork has made. Spec: rooms/v1, v2 and v12, "State resolution".

Where to read on: `v2.py` is the algorithm of room versions 2 to 12, step by step; `auth_chains.py` finds what must
be replayed, `ordering.py` in which order, `auth_checks.py` replays it; `idle_events.py` saves work and changes no
result. `v1.py` is all of room version 1.

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
from shared.core.state_resolution.v1 import resolve_v1
from shared.core.state_resolution.v2 import resolve_v2

__all__ = ["resolve"]


def _none_rejected(event_id: EventId) -> bool:
    return False


def resolve(
    version: RoomVersion,
    states: Sequence[Mapping[tuple[str, str], EventId]],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool] = _none_rejected,
    create: Event,
) -> dict[tuple[str, str], EventId]:
    """Return the resolution of the states: (type, state key) -> event id.

    states: the states after each forward branch, in any order, doubles allowed; no states resolve to no state.
    find: returns the event with an id, None for one that is missing. It is asked for conflicted events and their
        auth chains, for events that all states agree on where it matters, and for some of them several times: it
        should answer from memory. What it raises passes through; nothing else is raised.
    rejected: whether the event was rejected on receipt; asked for auth events only.
    create: the room's create event.

    A pure function that keeps nothing: it may run in a thread or a process. Time grows with the number of distinct
    events in the auth chains of the conflicted ones, not with the number of states times that.
    """
    if version.state_resolution is StateResolution.V1:
        return resolve_v1(version, states, find, create=create)
    return resolve_v2(version, states, find, rejected=rejected, create=create)
