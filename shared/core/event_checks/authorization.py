"""Checks 4 to 6: the room's rules in three states. Spec: server-server API, "Checks performed on receipt of a PDU".

A state may hold stubs instead of other users' memberships, with `content.membership` only: nothing else is read.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import check_auth, check_auth_events
from shared.core.event_auth.rules import violation
from shared.core.event_checks.verdict import Verdict, accept, drop, reject, soft_fail
from shared.core.events.event import Event
from shared.core.events.readers import PowerLevels
from shared.core.room_versions import RoomVersion

State = Mapping[tuple[str, str], Event]


def check_auth_events_of(
    version: RoomVersion, event: Event, auth_events: Iterable[Event], *, rejected: Collection[str], create: Event
) -> Verdict:
    """Check 4: the event names the auth events that it should, and they permit it. ACCEPT, REJECT or DROP.

    auth_events: all that `event.auth_event_ids` names; others are ignored. When one is missing, nothing can be said
        about the event, and the verdict is DROP: fetch them first.
    rejected: ids of events that were rejected themselves. Soft-failed ones are auth events like any other.
    create: the room's create event, also where the event is that one.
    """
    if event.type == "m.room.create":
        return _check_create(version, event, create)
    by_id: dict[str, Event] = {auth_event.event_id: auth_event for auth_event in auth_events}
    # In the event's own list: whoever fetches by id gets an event once that is named twice, which rule 2.1 forbids.
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
    """Check 5: the rules permit the event in the state before it. ACCEPT or REJECT.

    power_levels: those of this state where the caller keeps them parsed.
    """
    try:
        check_auth(version, event, state, create, power_levels=power_levels)
    except AuthRuleViolation as error:
        return reject(5, error.rule, error.message)
    return accept(5)


def check_current_state(
    version: RoomVersion, event: Event, state: State, create: Event, *, power_levels: PowerLevels | None = None
) -> Verdict:
    """Check 6: the rules permit the event in the room's current state. ACCEPT or SOFT_FAIL.

    state: resolved over all forward extremities, this event's own change left out. power_levels: as above.
    Spec: server-server API, "Soft failure".
    """
    try:
        check_auth(version, event, state, create, power_levels=power_levels)
    except AuthRuleViolation as error:
        return soft_fail(6, error.rule, error.message)
    return accept(6)


def _check_create(version: RoomVersion, event: Event, create: Event) -> Verdict:
    """Rule 1 alone judges a create event.

    It would let a room of the versions before 12 begin a second time, under the same id and with another creator. A
    room is what its own create event began, so another one is rejected (no rule of the spec says so).
    """
    try:
        check_auth(version, event, {}, create)
        if event.event_id != create.event_id:
            raise violation(version, "create", "", "the room has a create event already")
    except AuthRuleViolation as error:
        return reject(4, error.rule, error.message)
    return accept(4)


def _check_room(version: RoomVersion, named: Sequence[Event], rejected: Collection[str], create: Event) -> None:
    """Raise AuthRuleViolation unless the room's own create event, not rejected, stands behind the event.

    Spec: rooms/v1, rule 2.4 (that it is among the auth events); rooms/v12, rule 2 (that the room id names it).
    """
    if not version.create_in_auth_events:
        if create.event_id in rejected:
            raise violation(version, "room_id", "", "the room's create event was rejected")
        return
    if all(known.event_id != create.event_id for known in named):
        raise violation(version, "auth_events", "4", "the create event of this room is not among the auth events")
