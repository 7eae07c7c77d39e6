"""The rule for `m.room.member`. Spec: rooms/v1 (rule 5), v7, v8 (rule 4), v12 (rule 5)."""

from collections.abc import Mapping

from shared.core.event_auth.rule_numbers import violation
from shared.core.event_auth.third_party_invite import check_third_party_invite
from shared.core.events.event import Event
from shared.core.events.readers import (
    PowerLevels,
    authorising_user,
    join_rule_of,
    membership_of,
    room_creator,
)
from shared.core.identifiers import UserId, server_of
from shared.core.room_versions import RoomVersion
from shared.core.signing import signatures_of

State = Mapping[tuple[str, str], Event]


def check_member(version: RoomVersion, event: Event, state: State, create: Event, power_levels: PowerLevels) -> None:
    """Raise AuthRuleViolation unless the change of membership is allowed.

    For a restricted join, this checks only that a signature of the authorising server is present. `check_received`
    verifies it with the event's other signatures, since that needs the other server's keys.
    """
    membership = membership_of(event)
    if event.state_key is None or "membership" not in event.content:
        raise violation(version, "member/form", "", "state_key or membership is missing")
    if version.restricted and "join_authorised_via_users_server" in event.content:
        authoriser = authorising_user(event)
        if authoriser is None or ":" not in authoriser or not signatures_of(event.pdu, server_of(authoriser)):
            raise violation(version, "member/authorised", "1", "the authorising server has not signed")
    if membership == "join":
        _check_join(version, event, state, create, power_levels)
    elif membership == "invite":
        _check_invite(version, event, state, power_levels)
    elif membership == "leave":
        _check_leave(version, event, state, power_levels)
    elif membership == "ban":
        _check_ban(version, event, state, power_levels)
    elif membership == "knock" and version.knocking:
        _check_knock(version, event, state)
    else:
        raise violation(version, "member/unknown", "", "unknown membership")


def _check_join(version: RoomVersion, event: Event, state: State, create: Event, power_levels: PowerLevels) -> None:
    if event.prev_event_ids == (create.event_id,) and event.state_key == room_creator(version, create):
        return
    if event.sender != event.state_key:
        raise violation(version, "member/join", "2", "users can only join for themselves")
    current = _membership(state, event.sender)
    if current == "ban":
        raise violation(version, "member/join", "3", "the user is banned")
    rule = join_rule_of(state.get(("m.room.join_rules", "")))
    if rule == "public":
        return
    otherwise = "7" if version.restricted else "6"
    if rule == "invite" or (rule == "knock" and version.knocking):
        if current in ("invite", "join"):
            return
        raise violation(version, "member/join", otherwise, "this room needs an invite")
    if (rule == "restricted" and version.restricted) or (rule == "knock_restricted" and version.knock_restricted):
        if current not in ("invite", "join"):
            _check_authorised_join(version, event, state, power_levels)
        return
    raise violation(version, "member/join", otherwise, "the join rule allows no joins")


def _check_authorised_join(version: RoomVersion, event: Event, state: State, power_levels: PowerLevels) -> None:
    authoriser = authorising_user(event)
    if (
        authoriser is None
        or _membership(state, authoriser) != "join"
        or power_levels.user_level(authoriser) < power_levels.invite
    ):
        raise violation(version, "member/join", "5.2", "the join names no member who may invite")


def _check_invite(version: RoomVersion, event: Event, state: State, power_levels: PowerLevels) -> None:
    target = _membership(state, UserId(event.state_key or ""))
    if "third_party_invite" in event.content:
        check_third_party_invite(version, event, state, target_is_banned=target == "ban")
        return
    if _membership(state, event.sender) != "join":
        raise violation(version, "member/invite", "2", "the inviting user is not in the room")
    if target in ("join", "ban"):
        raise violation(version, "member/invite", "3", "the invited user is banned or in the room already")
    if power_levels.user_level(event.sender) < power_levels.invite:
        raise violation(version, "member/invite", "5", "the sender's power level is too low to invite")


def _check_leave(version: RoomVersion, event: Event, state: State, power_levels: PowerLevels) -> None:
    target = UserId(event.state_key or "")
    current = _membership(state, target)
    if event.sender == target:
        if current in ("invite", "join") or (current == "knock" and version.knocking):
            return
        raise violation(version, "member/leave", "1", "the user is not in the room")
    if _membership(state, event.sender) != "join":
        raise violation(version, "member/leave", "2", "the sender is not in the room")
    level = power_levels.user_level(event.sender)
    if current == "ban" and level < power_levels.ban:
        raise violation(version, "member/leave", "3", "the sender's power level is too low to unban")
    if level < power_levels.kick or power_levels.user_level(target) >= level:
        raise violation(version, "member/leave", "5", "the sender's power level is too low to kick this user")


def _check_ban(version: RoomVersion, event: Event, state: State, power_levels: PowerLevels) -> None:
    if _membership(state, event.sender) != "join":
        raise violation(version, "member/ban", "1", "the sender is not in the room")
    level = power_levels.user_level(event.sender)
    if level < power_levels.ban or power_levels.user_level(UserId(event.state_key or "")) >= level:
        raise violation(version, "member/ban", "3", "the sender's power level is too low to ban this user")


def _check_knock(version: RoomVersion, event: Event, state: State) -> None:
    rule = join_rule_of(state.get(("m.room.join_rules", "")))
    if rule != "knock" and not (rule == "knock_restricted" and version.knock_restricted):
        raise violation(version, "member/knock", "1", "the join rule allows no knocking")
    if event.sender != event.state_key:
        raise violation(version, "member/knock", "2", "users can only knock for themselves")
    if _membership(state, event.sender) in ("ban", "invite", "join"):
        raise violation(version, "member/knock", "4", "the user is banned, invited or in the room already")


def _membership(state: State, user_id: UserId) -> str | None:
    return membership_of(state.get(("m.room.member", user_id)))
