"""State resolution of room version 1. Spec: rooms/v1, "State resolution"."""

import hashlib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import StateKey

#: The types that decide what else is allowed, in the order of their passes.
_PASSES = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_v1(
    version: RoomVersion,
    states: Sequence[Mapping[StateKey, EventId]],
    find: Callable[[EventId], Event | None],
    *,
    create: Event,
) -> dict[StateKey, EventId]:
    """Return the resolution of the states; parameters as for `resolve`. Rejected events are not told apart."""
    candidates = _candidates(states)
    # Start: what is not in conflict. Here a key that some states lack is no conflict.
    resolved = {key: next(iter(event_ids)) for key, event_ids in candidates.items() if len(event_ids) == 1}
    conflicts = {
        key: [event for event in map(find, event_ids) if event is not None and (event.type, event.state_key) == key]
        for key, event_ids in candidates.items()
        if len(event_ids) > 1
    }
    # Nothing but the state counts in this version: an event's own auth events never stand in.
    checks = AuthChecks(version, create, find, None)

    # Power levels, then join rules, then memberships: each pass sees the results of those before. Within the pass of
    # memberships no user comes before another, since the spec names no order among them: each list sees only its own.
    for event_type in _PASSES:
        this_pass = {
            key: _last_of_list(checks, key, events, resolved)
            for key, events in conflicts.items()
            if key[0] == event_type and events
        }
        resolved.update(this_pass)

    # All the rest: the newest that is allowed, each judged by the result of the passes.
    rest = {
        key: _newest_allowed(checks, events, resolved) for key, events in conflicts.items() if key[0] not in _PASSES
    }
    resolved.update({key: event_id for key, event_id in rest.items() if event_id is not None})
    return resolved


def _candidates(states: Sequence[Mapping[StateKey, EventId]]) -> dict[StateKey, dict[EventId, None]]:
    """Return key -> distinct events that the states have there."""
    candidates: dict[StateKey, dict[EventId, None]] = {}
    for state in states:
        for key, event_id in state.items():
            candidates.setdefault(key, {})[event_id] = None
    return candidates


def _last_of_list(checks: AuthChecks, key: StateKey, events: list[Event], resolved: dict[StateKey, EventId]) -> EventId:
    """Return where the list of conflicting events ends: at its last, or before the first that is not allowed.

    By ascending depth, then descending SHA-1 of the id. The first is taken unchecked, each next one must be allowed
    by the state with its forerunner in it.
    """
    events = sorted(events, key=_sha1, reverse=True)
    events.sort(key=lambda event: event.depth)
    accepted = events[0].event_id
    for event in events[1:]:
        if not checks.allow(event, ChainMap({key: accepted}, resolved)):
            break
        accepted = event.event_id
    return accepted


def _newest_allowed(checks: AuthChecks, events: list[Event], resolved: Mapping[StateKey, EventId]) -> EventId | None:
    """Return the allowed event of greatest depth, of several that of the lowest SHA-1; None when none is allowed."""
    for event in sorted(events, key=lambda event: (-event.depth, _sha1(event))):
        if checks.allow(event, resolved):
            return event.event_id
    return None


def _sha1(event: Event) -> bytes:
    # Not for security: the spec's tie-breaker. Ids come from other servers and may hold what UTF-8 cannot.
    return hashlib.sha1(event.event_id.encode(errors="surrogatepass"), usedforsecurity=False).digest()
