"""The rules in their order. Spec: rooms/v1 to rooms/v12, "Authorisation rules"."""

from collections.abc import Mapping

from shared.core.event_auth.create import check_create
from shared.core.event_auth.member import check_member
from shared.core.event_auth.power_levels import check_power_levels
from shared.core.event_auth.redaction import check_redaction
from shared.core.event_auth.rule_numbers import violation
from shared.core.events.event import Event
from shared.core.events.readers import PowerLevels, federates, membership_of, power_levels_of
from shared.core.identifiers import server_of
from shared.core.room_versions import RoomVersion

State = Mapping[tuple[str, str], Event]


def check_auth(
    version: RoomVersion,
    event: Event,
    state: State,
    create: Event,
    *,
    power_levels: PowerLevels | None = None,
) -> None:
    """Raise AuthRuleViolation unless the room's rules allow the event in this state.

    state: (type, state key) -> event. It needs only the keys that `auth_types_for` names, without the create event.
    create: the room's create event (for a create event: itself), known not to be rejected.
    power_levels: the room's levels in this state, if the caller has them parsed; else read from `state`.
    """
    if event.type == "m.room.create":
        check_create(version, event)
        return
    _check_room(version, event, create)
    if not federates(create) and server_of(event.sender) != server_of(create.sender):
        raise violation(version, "federate", "", "users of other servers may not take part in this room")
    if version.aliases_rule and event.type == "m.room.aliases":
        _check_aliases(version, event)
        return
    if power_levels is None:
        power_levels = power_levels_of(version, create, state.get(("m.room.power_levels", "")))
    if event.type == "m.room.member":
        check_member(version, event, state, create, power_levels)
        return
    _check_joined_sender(version, event, state, create, power_levels)


def _check_joined_sender(
    version: RoomVersion, event: Event, state: State, create: Event, power_levels: PowerLevels
) -> None:
    """Check the rules for all events but memberships, from "the sender must be joined" to the end of the list."""
    if membership_of(state.get(("m.room.member", event.sender))) != "join":
        raise violation(version, "joined", "", "the sender is not in the room")
    level = power_levels.user_level(event.sender)
    if event.type == "m.room.third_party_invite":
        if level < power_levels.invite:
            raise violation(version, "third_party_invite", "1", "the sender's power level is too low to invite")
        return
    if level < power_levels.event_level(event.type, event.is_state):
        raise violation(version, "level", "", f"the sender's power level is too low to send {event.type}")
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        raise violation(version, "state_key", "", "this state belongs to another user")
    if event.type == "m.room.power_levels":
        check_power_levels(version, event, state.get(("m.room.power_levels", "")), create, level)
    elif version.redaction_rule and event.type == "m.room.redaction":
        check_redaction(version, event, level, power_levels)


def _check_room(version: RoomVersion, event: Event, create: Event) -> None:
    # In version 12 this is rule 2: the room id names the accepted create event. Before that, rule 2.5 says the same
    # of the create event among the auth events.
    if event.room_id == create.room_id:
        return
    if version.room_id_is_create_hash:
        raise violation(version, "room_id", "", "the room id does not name the room's create event")
    raise violation(version, "auth_events", "5", "the create event is of another room")


def _check_aliases(version: RoomVersion, event: Event) -> None:
    if event.state_key is None:
        raise violation(version, "aliases", "1", "m.room.aliases must be a state event")
    if event.state_key != server_of(event.sender):
        raise violation(version, "aliases", "2", "the state key must be the sender's server")
