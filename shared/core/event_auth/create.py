"""Rule 1: `m.room.create`. Spec: rooms/v1, v11 and v12, rule 1."""

from shared.core.event_auth.rule_numbers import violation
from shared.core.events.event import Event
from shared.core.identifiers import is_user_id, server_of
from shared.core.room_versions import ROOM_VERSIONS, RoomVersion


def check_create(version: RoomVersion, event: Event) -> None:
    """Raise AuthRuleViolation unless the event may begin a room of this version."""
    if event.prev_event_ids:
        raise violation(version, "create", "1", "a create event must not have previous events")
    if version.room_id_is_create_hash:
        if "room_id" in event.pdu:
            raise violation(version, "create", "2", "a create event must not have a room_id")
    elif server_of(event.room_id) != server_of(event.sender):
        raise violation(version, "create", "2", "the room id must be of the sender's server")
    named = event.content.get("room_version")
    if "room_version" in event.content and (not isinstance(named, str) or named not in ROOM_VERSIONS):
        raise violation(version, "create", "3", "unknown room version")
    if version.creator_in_content and "creator" not in event.content:
        raise violation(version, "create", "4", "creator is missing")
    if version.additional_creators and "additional_creators" in event.content:
        creators = event.content["additional_creators"]
        if not isinstance(creators, list) or not all(isinstance(c, str) and is_user_id(c) for c in creators):
            raise violation(version, "create", "4", "additional_creators must be a list of user ids")
