"""Selection of an event's `auth_events` from the room state. Spec: server-server API, "Auth events selection"."""

from collections.abc import Mapping
from typing import Any

from shared.core.identifiers import UserId
from shared.core.room_versions import RoomVersion


def auth_types_for(
    version: RoomVersion, *, type: str, sender: UserId, state_key: str | None, content: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return the distinct (type, state key) pairs to select from the room's state. State that is absent is skipped.

    There are none for the create event. From version 12 on the create event is never selected, since the room id
    implies it.
    """
    if type == "m.room.create":
        return []
    selected: list[tuple[str, str]] = []
    if version.create_in_auth_events:
        selected.append(("m.room.create", ""))
    selected.append(("m.room.power_levels", ""))
    selected.append(("m.room.member", sender))
    if type == "m.room.member" and state_key is not None:
        selected.extend(_types_for_member(version, state_key, content))
    return list(dict.fromkeys(selected))


def _types_for_member(version: RoomVersion, state_key: str, content: Mapping[str, Any]) -> list[tuple[str, str]]:
    selected = [("m.room.member", state_key)]
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        selected.append(("m.room.join_rules", ""))
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            selected.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            selected.append(("m.room.member", authoriser))
    return selected


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """Return `third_party_invite.signed.token` of an invite's content, or None if there is no such string."""
    value: Any = content
    for key in ("third_party_invite", "signed", "token"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else None
