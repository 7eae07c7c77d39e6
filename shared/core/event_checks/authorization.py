"""Checks 4 to 6: the room's rules in three states. Spec: server-server API, "Checks performed on receipt of a PDU".

A state may hold stubs with `content.membership` alone in place of other users' memberships. Nothing else is read.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import check_auth, check_auth_events
from shared.core.event_auth.rule_numbers import violation
from shared.core.event_checks.verdict import Verdict, accept, drop, reject, soft_fail
from shared.core.events.event import Event
from shared.core.events.readers import PowerLevels
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion

State = Mapping[tuple[str, str], Event]


def check_auth_events_of(
    version: RoomVersion, event: Event, auth_events: Iterable[Event], *, rejected: Collection[EventId], create: Event
) -> Verdict:
    """Check 4: the event names the right auth events, and they allow it. Return ACCEPT, REJECT or DROP.

    auth_events: all the events in `event.auth_event_ids`; others are ignored. If one is missing, the event cannot be
        checked, and the verdict is DROP. The caller fetches them first.
    rejected: ids of events that were rejected. Soft-failed events are auth events like any other.
    create: the room's create event, even if `event` is that event.
    """
    if event.type == "m.room.create":
        return _check_create(version, event, create)
    by_id: dict[str, Event] = {auth_event.event_id: auth_event for auth_event in auth_events}
    # By the event's own list. A fetch by id returns each event once, but rule 2.1 must see an event named twice.
    named = [known for event_id in event.auth_event_ids if (known := by_id.get(event_id)) is not None]
    if len(named) < len(event.auth_event_ids):
        return drop(4, f"{len(event.auth_event_ids) - len(named)} of the auth events are unknown")
    try:
        check_auth_events(version, event, named, rejected)
        _check_room(version, named, rejected, create)
        state = {(known.type, known.state_key): known for known in named if known.state_key is not None}
        check_auth(version, event, state, create)
    except AuthRuleViolation as error:
        return reject(4, error.rule, error.message)
    return accept(4)


def check_state_before(
    version: RoomVersion, event: Event, state: State, create: Event, *, power_levels: PowerLevels | None = None
) -> Verdict:
    """Check 5: the rules allow the event in the state before it. Return ACCEPT or REJECT.

    power_levels: the levels in this state, if the caller has them parsed.
    """
    try:
        check_auth(version, event, state, create, power_levels=power_levels)
    except AuthRuleViolation as error:
        return reject(5, error.rule, error.message)
    return accept(5)


def check_current_state(
    version: RoomVersion, event: Event, state: State, create: Event, *, power_levels: PowerLevels | None = None
) -> Verdict:
    """Check 6: the rules allow the event in the room's current state. Return ACCEPT or SOFT_FAIL.

    state: resolved over all forward extremities, without this event's own change.
    power_levels: the levels in this state, if the caller has them parsed.
    Spec: server-server API, "Soft failure".
    """
    try:
        check_auth(version, event, state, create, power_levels=power_levels)
    except AuthRuleViolation as error:
        return soft_fail(6, error.rule, error.message)
    return accept(6)


def _check_create(version: RoomVersion, event: Event, create: Event) -> Verdict:
    """Check a create event by rule 1, and refuse a second one.

    Before version 12, rule 1 would accept a second create event with the same room id and another creator. The spec
    has no rule against it. Here a room has one create event, and any other is rejected.
    """
    try:
        check_auth(version, event, {}, create)
        if event.event_id != create.event_id:
            raise violation(version, "create", "", "the room has a create event already")
    except AuthRuleViolation as error:
        return reject(4, error.rule, error.message)
    return accept(4)


def _check_room(version: RoomVersion, named: Sequence[Event], rejected: Collection[EventId], create: Event) -> None:
    """Raise AuthRuleViolation unless the event refers to the room's own create event, and that was not rejected.

    Spec: rooms/v1, rule 2.4 (it is among the auth events); rooms/v12, rule 2 (the room id names it).
    """
    if not version.create_in_auth_events:
        if create.event_id in rejected:
            raise violation(version, "room_id", "", "the room's create event was rejected")
        return
    if all(known.event_id != create.event_id for known in named):
        raise violation(version, "auth_events", "4", "the create event of this room is not among the auth events")
