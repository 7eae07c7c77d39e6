"""The first event of a room, which decides the room's id. Spec: rooms/v12, "Room IDs"."""

import secrets
from collections.abc import Mapping
from typing import Any

from shared.core.errors import invalid_param
from shared.core.event_auth import check_auth
from shared.core.events import Event, build_event
from shared.core.identifiers import RoomId, UserId, is_user_id
from shared.core.room_versions import RoomVersion
from workers.event_persister.room.event_builder import Identity


def new_room_id(version: RoomVersion, server_name: str) -> RoomId | None:
    """Return a room id, None if it will be the create event's hash."""
    return None if version.room_id_is_create_hash else RoomId(f"!{secrets.token_urlsafe(15)}:{server_name}")


def build_create_event(
    identity: Identity,
    version: RoomVersion,
    room_id: RoomId | None,
    creator: UserId,
    content: Mapping[str, Any],
    now_ms: int,
) -> Event:
    """Return a create event. room_id: of `new_room_id`. Raises AuthRuleViolation."""
    create = build_event(
        version,
        room_id=room_id,
        sender=creator,
        type="m.room.create",
        state_key="",
        content=content,
        prev_event_ids=(),
        auth_event_ids=(),
        depth=1,
        origin_server_ts=now_ms,
        signing_key=identity.signing_key,
        server_name=identity.server_name,
        event_id_localpart=secrets.token_urlsafe(18) if version.event_id_server_signs else None,
        reference_hashes={} if version.references_with_hashes else None,
    )
    check_auth(version, create, {}, create)
    return create


def check_additional_creators(value: Any) -> list[UserId]:
    """Return `additional_creators` as a client named them. Raises M_INVALID_PARAM."""
    if not isinstance(value, list) or not all(isinstance(each, str) and is_user_id(each) for each in value):
        raise invalid_param("additional_creators must be a list of user ids")
    return value
