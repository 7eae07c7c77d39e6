"""The rule about an event's auth events, which needs no room state.

Spec: rooms/v1, rule 2; rooms/v12, rule 3.
"""

from collections.abc import Collection, Iterable

from shared.core.event_auth.rule_numbers import violation
from shared.core.event_auth.selection import auth_types_for
from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion


def check_auth_events(
    version: RoomVersion, event: Event, auth_events: Iterable[Event], rejected: Collection[EventId] = ()
) -> None:
    """Raise AuthRuleViolation unless the event names the right auth events.

    auth_events: all the events of `event.auth_event_ids`; the caller has fetched them.
    rejected: ids of those that were rejected.
    """
    if event.type == "m.room.create":
        return  # only rule 1 applies to a create event
    allowed = set(
        auth_types_for(
            version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content,
        )
    )
    faults: dict[str, str] = {}
    seen: set[tuple[str, str | None]] = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            faults["1"] = f"two auth events are {auth_event.type}"
        seen.add(key)
        if key not in allowed:
            faults["2"] = f"{auth_event.type} must not be an auth event here"
        if auth_event.event_id in rejected:
            faults["3"] = "an auth event was rejected"
        if auth_event.room_id != event.room_id:
            faults["5"] = "an auth event is of another room"
    if version.create_in_auth_events and ("m.room.create", "") not in seen:
        faults["4"] = "the create event is not among the auth events"
    if faults:
        number = min(faults)
        raise violation(version, "auth_events", number, faults[number])
