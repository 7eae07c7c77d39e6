"""State resolution of room version 1. Spec: rooms/v1, "State resolution"."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.overlays import OverlaidState, Overlay, StateKey, holders_of

#: The types that decide what else is allowed, in the order of the passes.
_PASSES = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_v1(
    version: RoomVersion,
    base: Mapping[StateKey, EventId],
    overlays: Sequence[Overlay],
    find: Callable[[EventId], Event | None],
    *,
    prefetch: Callable[[Sequence[EventId]], None],
    create: Event,
) -> dict[StateKey, EventId | None]:
    """Return the resolution as an overlay. The parameters are those of `resolve_overlays`, without `rejected`."""
    # Start with the entries without conflict. In this version a key that some states lack is no conflict.
    resolved = OverlaidState(base, {})
    candidates: dict[StateKey, list[EventId]] = {}
    for key, held in holders_of(base, overlays).by_key.items():
        event_ids = [event_id for event_id in held if event_id is not None]
        resolved.changes[key] = event_ids[0] if len(event_ids) == 1 else None
        if len(event_ids) > 1:
            candidates[key] = event_ids
    prefetch([event_id for event_ids in candidates.values() for event_id in event_ids])
    conflicts: dict[StateKey, list[Event]] = {}
    for key, event_ids in candidates.items():
        found = [event for event in map(find, event_ids) if event is not None]
        conflicts[key] = [event for event in found if (event.type, event.state_key) == key]
    # In this version only the state counts. An event's own auth events are no fallback.
    checks = AuthChecks(version, create, find, None)

    # Power levels, then join rules, then memberships: each pass uses the results of the previous ones. The spec has no
    # order of users within the pass of memberships, so each list uses only its own results.
    for event_type in _PASSES:
        this_pass = {
            key: _last_accepted(checks, key, events, resolved)
            for key, events in conflicts.items()
            if key[0] == event_type and events
        }
        resolved.changes.update(this_pass)

    # All other keys: the newest event that is allowed in the result of the passes.
    rest = {
        key: _newest_allowed(checks, events, resolved) for key, events in conflicts.items() if key[0] not in _PASSES
    }
    resolved.changes.update(rest)
    return resolved.overlay()


def _last_accepted(checks: AuthChecks, key: StateKey, events: list[Event], resolved: OverlaidState) -> EventId:
    """Return the last event of the list of conflicting events, or the last before the first that is not allowed.

    The list is sorted by ascending depth, then descending SHA-1 of the id. Its first event is accepted unchecked. Each
    later one must be allowed in the state with its predecessor.
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
    # One key on top, since copying all changes for each event of each list would be slow.
    return OverlaidState(state, {key: event_id})


def _newest_allowed(checks: AuthChecks, events: list[Event], resolved: OverlaidState) -> EventId | None:
    """Return the allowed event of greatest depth, then lowest SHA-1, or None if none is allowed."""
    for event in sorted(events, key=lambda event: (-event.depth, _sha1(event))):
        if checks.allow(event, resolved):
            return event.event_id
    return None


def _sha1(event: Event) -> bytes:
    # Not for security: this is the spec's tie-breaker. Ids come from other servers and may not be valid UTF-8.
    return hashlib.sha1(event.event_id.encode(errors="surrogatepass"), usedforsecurity=False).digest()
