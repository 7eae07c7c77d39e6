"""State resolution of room version 1. Spec: rooms/v1, "State resolution"."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.overlays import OverlaidState, Overlay, StateKey, holders_of

#: The types that decide what else is allowed, in the order of their passes.
_PASSES = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_v1(
    version: RoomVersion,
    base: Mapping[StateKey, EventId],
    overlays: Sequence[Overlay],
    find: Callable[[EventId], Event | None],
    *,
    expect: Callable[[Sequence[EventId]], None],
    create: Event,
) -> dict[StateKey, EventId | None]:
    """Return the resolution as an overlay; parameters as for `resolve_overlays`. Rejected events are not told apart."""
    # Start: what is not in conflict. Here a key that some states lack is no conflict.
    resolved = OverlaidState(base, {})
    candidates: dict[StateKey, list[EventId]] = {}
    for key, held in holders_of(base, overlays).by_key.items():
        event_ids = [event_id for event_id in held if event_id is not None]
        resolved.changes[key] = event_ids[0] if len(event_ids) == 1 else None
        if len(event_ids) > 1:
            candidates[key] = event_ids
    expect([event_id for event_ids in candidates.values() for event_id in event_ids])
    conflicts: dict[StateKey, list[Event]] = {}
    for key, event_ids in candidates.items():
        found = [event for event in map(find, event_ids) if event is not None]
        conflicts[key] = [event for event in found if (event.type, event.state_key) == key]
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
        resolved.changes.update(this_pass)

    # All the rest: the newest that is allowed, each judged by the result of the passes.
    rest = {
        key: _newest_allowed(checks, events, resolved) for key, events in conflicts.items() if key[0] not in _PASSES
    }
    resolved.changes.update(rest)
    return resolved.overlay()


def _last_of_list(checks: AuthChecks, key: StateKey, events: list[Event], resolved: OverlaidState) -> EventId:
    """Return where the list of conflicting events ends: at its last, or before the first that is not allowed.

    By ascending depth, then descending SHA-1 of the id. The first is taken unchecked, each next one must be allowed
    by the state with its forerunner in it.
    """
    events = sorted(events, key=_sha1, reverse=True)
    events.sort(key=lambda event: event.depth)
    accepted = events[0].event_id
    for event in events[1:]:
        if not checks.allow(event, _with(resolved, key, accepted)):
            break
        accepted = event.event_id
    return accepted


def _with(state: OverlaidState, key: StateKey, event_id: EventId) -> OverlaidState:
    # All changes at once would be copied for each event of each list: a key is put over them instead.
    return OverlaidState(state, {key: event_id})


def _newest_allowed(checks: AuthChecks, events: list[Event], resolved: OverlaidState) -> EventId | None:
    """Return the allowed event of greatest depth, of several that of the lowest SHA-1; None when none is allowed."""
    for event in sorted(events, key=lambda event: (-event.depth, _sha1(event))):
        if checks.allow(event, resolved):
            return event.event_id
    return None


def _sha1(event: Event) -> bytes:
    # Not for security: the spec's tie-breaker. Ids come from other servers and may hold what UTF-8 cannot.
    return hashlib.sha1(event.event_id.encode(errors="surrogatepass"), usedforsecurity=False).digest()
