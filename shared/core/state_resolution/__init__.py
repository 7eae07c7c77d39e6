"""State resolution: computes one room state from the states of a fork. Spec: rooms/v1, v2, v12, "State resolution".

`overlays.py` has the form of the states. `v2.py` is the algorithm of room versions 2 to 12, step by step:
`full_conflicted_set.py` and `auth_chains.py` find the events to replay, `ordering.py` orders them, `auth_checks.py`
replays them. `irrelevant_events.py` and `outcomes.py` save work and never change the result. `v1.py` is the whole
algorithm of room version 1.

Decisions where the spec is silent:

- A missing event that is cited, or is in a state, stays if all states agree on it. Otherwise it is skipped.
- Events in a circle of `auth_events`, or above one, cannot be ordered, and are not replayed.
- The replay checks the authorization rules on the room's state. The rule on an event's own `auth_events` was checked
  when the event arrived (rooms/v2, "Rejected events": such events are in no state).
- The room has one create event, named by the caller. Another create event in some state has no effect on rights.
"""

from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution
from shared.core.state_resolution.overlays import Overlay, StateKey, apply_overlay, overlay_of
from shared.core.state_resolution.v1 import resolve_v1
from shared.core.state_resolution.v2 import resolve_v2

__all__ = ["Overlay", "StateKey", "resolve", "resolve_overlays"]


def _none_rejected(event_id: EventId) -> bool:
    return False


def _no_prefetch(event_ids: Sequence[EventId]) -> None:
    """Do nothing: the caller has all events in memory."""


def resolve_overlays(
    version: RoomVersion,
    base: Mapping[StateKey, EventId],
    overlays: Sequence[Overlay],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool] = _none_rejected,
    prefetch: Callable[[Sequence[EventId]], None] = _no_prefetch,
    create: Event,
) -> dict[StateKey, EventId | None]:
    """Return the resolved state as an overlay: (type, state key) -> event id or None, where it differs from the base.

    base, overlays: each overlay on the base is one state (`Overlay`), in any order; duplicates are allowed. No overlays
        resolve to no state. The arguments must not change meanwhile.
    find: returns the event with an id, or None if it is missing. It is called for conflicted events, their auth chains,
        and some events that all states agree on, and several times for some of them. So it should answer from memory.
        Its exceptions pass through; nothing else is raised.
    rejected: returns True if an auth event was rejected on receipt.
    prefetch: called with the ids of events that `find` will need soon, so that they can be loaded together.
    create: the room's create event.

    This is a pure function without a memory, so it may run in a thread or a process. Time and memory grow with the
    overlays, and with the distinct events in the auth chains of the conflicted events, but not with their product with
    the number of states. They grow with the base only if the result depends on events that are in the auth difference
    unless an agreed event cites them, and no cheaper proof decides (`full_conflicted_set.py`).
    """
    if not overlays:
        return dict.fromkeys(base)
    if version.state_resolution is StateResolution.V1:
        return resolve_v1(version, base, overlays, find, prefetch=prefetch, create=create)
    return resolve_v2(version, base, overlays, find, rejected=rejected, prefetch=prefetch, create=create)


def resolve(
    version: RoomVersion,
    states: Sequence[Mapping[StateKey, EventId]],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool] = _none_rejected,
    create: Event,
) -> dict[StateKey, EventId]:
    """Return the resolved state: (type, state key) -> event id.

    states: the states after each forward extremity, in any order; duplicates are allowed. No states resolve to no
        state.
    The other parameters, errors and bounds are those of `resolve_overlays`.
    """
    if not states:
        return {}
    base = max(states, key=len)
    distinct = {id(state): state for state in states}.values()
    overlays = [overlay_of(base, state) for state in distinct]
    return apply_overlay(base, resolve_overlays(version, base, overlays, find, rejected=rejected, create=create))
