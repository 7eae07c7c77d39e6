"""PURE: the first events of a room, from the request that creates it.

Spec: client-server API, POST /createRoom: the order of the events, the presets, what overrides what.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from shared.core.identifiers import UserId
from shared.core.room_versions import RoomVersion
from workers.event_persister.members.member_draft import member_draft
from workers.event_persister.room.drafts import Draft

Preset = Literal["private_chat", "public_chat", "trusted_private_chat"]

#: preset -> join_rule, history_visibility, guest_access.
_PRESETS: Mapping[str, tuple[str, str, str]] = {
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}
_CREATOR_LEVEL = 100


class InitialState(msgspec.Struct):
    type: str
    content: dict[str, Any]
    state_key: str = ""


class Invite3pid(msgspec.Struct):
    id_server: str
    id_access_token: str
    medium: str
    address: str


class CreateRoomBody(msgspec.Struct):
    """The request's body. A key that is null reads as absent."""

    visibility: Literal["public", "private"] | None = None
    room_alias_name: str | None = None
    name: str | None = None
    topic: str | None = None
    invite: list[UserId] | None = None
    invite_3pid: list[Invite3pid] | None = None
    room_version: str | None = None
    creation_content: dict[str, Any] | None = None
    initial_state: list[InitialState] | None = None
    preset: Preset | None = None
    is_direct: bool | None = None
    power_level_content_override: dict[str, Any] | None = None

    @property
    def effective_preset(self) -> Preset:
        """The preset of the request. Without one the visibility decides."""
        return self.preset or ("public_chat" if self.visibility == "public" else "private_chat")


def create_content(
    version: RoomVersion, body: CreateRoomBody, creator: UserId, invited: Sequence[UserId]
) -> dict[str, Any]:
    """Return the content of m.room.create. The server's own keys win over `creation_content`."""
    content = {**(body.creation_content or {}), "room_version": version.name}
    content.pop("creator", None)
    if version.creator_in_content:
        content["creator"] = creator
    if version.additional_creators and body.effective_preset == "trusted_private_chat" and invited:
        named = content.get("additional_creators", [])
        # A value that is no list of ids stays, and is refused later.
        if isinstance(named, list) and all(isinstance(user_id, str) for user_id in named):
            content["additional_creators"] = list(dict.fromkeys([*named, *invited]))
    return content


def first_events(
    version: RoomVersion,
    body: CreateRoomBody,
    creator: UserId,
    creators: Collection[UserId],
    alias: str | None,
    invited: Sequence[UserId],
    profiles: Mapping[UserId, Mapping[str, str]],
) -> list[Draft]:
    """Return the events after m.room.create, in the spec's order.

    creators: everybody who has the creator's power
    alias: the room's new alias
    invited: user ids without doubles
    profiles: of the creator and of those invited
    """
    wanted = {(state.type, state.state_key): state.content for state in body.initial_state or []}
    given: dict[tuple[str, str], Mapping[str, Any]] = {}
    if alias is not None and ("m.room.canonical_alias", "") not in wanted:
        given["m.room.canonical_alias", ""] = {"alias": alias}
    join_rule, history_visibility, guest_access = _PRESETS[body.effective_preset]
    for key, content in (
        (("m.room.join_rules", ""), {"join_rule": join_rule}),
        (("m.room.history_visibility", ""), {"history_visibility": history_visibility}),
        (("m.room.guest_access", ""), {"guest_access": guest_access}),
    ):
        if key not in wanted:
            given[key] = content
    named: dict[tuple[str, str], Mapping[str, Any]] = {}
    if body.name:
        named["m.room.name", ""] = {"name": body.name}
    if body.topic:
        named["m.room.topic", ""] = {
            "topic": body.topic,
            "m.topic": {"m.text": [{"mimetype": "text/plain", "body": body.topic}]},
        }
    # Power levels of `initial_state` come on top of the default ones, after the preset: with these, creators may step
    # down and still set up their room.
    levels = _power_levels(version, body, creator, invited) | _override(version, body, creators)
    states = [(("m.room.power_levels", ""), levels), *given.items()]
    states += [(key, content) for key, content in wanted.items() if key not in named]
    states += named.items()

    direct = True if body.is_direct else None
    return [
        member_draft(creator, creator, "join", profiles.get(creator, {})),
        *(
            Draft(sender=creator, type=kind, state_key=state_key, content=content)
            for (kind, state_key), content in states
        ),
        *(
            member_draft(creator, user_id, "invite", {**profiles.get(user_id, {}), "is_direct": direct})
            for user_id in invited
        ),
    ]


def _override(version: RoomVersion, body: CreateRoomBody, creators: Collection[UserId]) -> dict[str, Any]:
    """Return `power_level_content_override`, without creators whose power no level can express.

    Deployed clients name the creator there with level 100 in every room version. From version 12 on the rules refuse
    such an event, which is the server's own and not the client's. A lower level is left in it, and refused: the client
    wants something that cannot be had.
    """
    override = dict(body.power_level_content_override or {})
    users = override.get("users")
    if version.creators_outrank_all and isinstance(users, dict):
        override["users"] = {
            user_id: level
            for user_id, level in users.items()
            if user_id not in creators or not isinstance(level, int) or level < _CREATOR_LEVEL
        }
    return override


def _power_levels(
    version: RoomVersion, body: CreateRoomBody, creator: UserId, invited: Sequence[UserId]
) -> dict[str, Any]:
    """Return the default levels: creators may do everything, others may talk.

    Creators are not named if the room version lets them outrank all.
    """
    preset = body.effective_preset
    trusted = invited if preset == "trusted_private_chat" else ()
    users = {} if version.creators_outrank_all else dict.fromkeys([creator, *trusted], _CREATOR_LEVEL)
    return {
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            # Spec: from version 12 on higher than any level that can be given away by default.
            "m.room.tombstone": 150 if version.creators_outrank_all else 100,
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if preset == "public_chat" else 0,
    }
