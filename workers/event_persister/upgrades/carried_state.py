"""PURE: the state that the new room of an upgrade takes over from the old one, and the old one's last power levels.

Spec: client-server API, "Room Upgrades", server behaviour. Beyond its list, the state of spaces and the policy server
are copied. Pinned events name events of the old room, so they stay there, as do memberships.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from shared.core.canonical_json import MAX_SAFE_INTEGER
from shared.core.events import Event
from shared.core.events.readers import PowerLevels
from shared.core.events.readers.create import federates, room_type
from shared.core.events.readers.power_levels import DEFAULT_LEVELS
from shared.core.identifiers import RoomId, UserId, is_user_id
from shared.core.room_versions import RoomVersion
from shared.storage.rooms.upgrades import StateContent
from workers.event_persister.members.member_draft import member_draft
from workers.event_persister.room.drafts import Draft
from workers.event_persister.writing.refusals import aliases_in

TOMBSTONE, POWER_LEVELS, CANONICAL_ALIAS = "m.room.tombstone", "m.room.power_levels", "m.room.canonical_alias"
#: State with an empty key that the new room has from its beginning.
SINGLE_TYPES = (
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.server_acl",
    "m.room.policy",
)
#: State with many keys. It may be large, and is written afterwards.
KEYED_TYPES = ("m.space.child", "m.space.parent")
#: In rooms whose creators outrank all. Spec: m.room.power_levels, `events`.
_CREATORS_ONLY = 150
_RESTRICTED = 50
_JOIN_RULES = "m.room.join_rules"


def create_content(
    version: RoomVersion, old_create: Event, last_event_id: str, upgrader: UserId, additional_creators: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the new room's m.room.create.

    last_event_id: the old room's tombstone, to which clients jump. From version 12 on the new room's id is the hash of
        this event, and the tombstone names that id: there it is the last event before the tombstone.
    """
    content: dict[str, Any] = {
        "room_version": version.name,
        "predecessor": {"room_id": old_create.room_id, "event_id": last_event_id},
    }
    kind = room_type(old_create)
    if kind is not None:
        content["type"] = kind
    if not federates(old_create):
        content["m.federate"] = False
    if version.creator_in_content:
        content["creator"] = upgrader
    if version.additional_creators and additional_creators:
        content["additional_creators"] = list(dict.fromkeys(additional_creators))
    return content


def final_levels(
    version: RoomVersion, old: PowerLevels, content: Mapping[str, Any], creators: Collection[UserId], upgrader: UserId
) -> dict[str, Any]:
    """Return the content of the new room's final power levels.

    old, content: those of the old room, as read by its version and as written (empty if it has none).
    creators: of the new room.
    """
    named = {*DEFAULT_LEVELS, "users", "events", "notifications"}
    levels: dict[str, Any] = {key: fit(value) for key, value in content.items() if key not in named}
    levels.update({name: _within(getattr(old, name)) for name in DEFAULT_LEVELS})
    levels["events"] = {kind: _within(level) for kind, level in old.events.items()}
    if old.notifications:
        levels["notifications"] = {key: _within(level) for key, level in old.notifications.items()}
    users: dict[str, int] = {user_id: _within(level) for user_id, level in old.users.items() if is_user_id(user_id)}
    levels["users"] = users
    if version.creators_outrank_all:
        for creator in creators:
            users.pop(creator, None)
        if not old.creators:
            least = max(_CREATORS_ONLY, levels["state_default"] + 1)
            levels["events"][TOMBSTONE] = _within(max(least, levels["events"].get(TOMBSTONE, 0)))
    elif old.creators:
        # They had no level: here they have the greatest.
        users.update(dict.fromkeys(filter(is_user_id, [*old.creators, upgrader]), highest_level(levels)))
    return levels


def first_levels(version: RoomVersion, final: Mapping[str, Any], upgrader: UserId) -> Mapping[str, Any]:
    """Return the levels under which the upgrader may write all copied state. The final ones are set at the end."""
    if version.creators_outrank_all:
        return final
    return {**final, "users": {**final["users"], upgrader: highest_level(final)}}


def highest_level(levels: Mapping[str, Any]) -> int:
    """Return the greatest level in a power levels content, at least 100."""
    maps = (levels["events"], levels["users"], levels.get("notifications", {}))
    greatest: int = max(100, *(levels[name] for name in DEFAULT_LEVELS), *(n for each in maps for n in each.values()))
    return greatest


def first_drafts(
    version: RoomVersion,
    upgrader: UserId,
    profile: Mapping[str, str],
    levels: Mapping[str, Any],
    state: Iterable[StateContent],
    aliases: Collection[str],
) -> list[Draft]:
    """Return the new room's events after m.room.create.

    state: SINGLE_TYPES and the canonical alias of the old room.
    aliases: of this server, which point to the old room.
    """
    drafts = [
        member_draft(upgrader, upgrader, "join", profile),
        Draft(sender=upgrader, type=POWER_LEVELS, state_key="", content=levels),
    ]
    contents = {each.type: each.content for each in state if each.state_key == ""}
    if named := kept_aliases(contents.get(CANONICAL_ALIAS, {}), aliases):
        drafts.append(Draft(sender=upgrader, type=CANONICAL_ALIAS, state_key="", content=named))
    for kind in SINGLE_TYPES:
        if kind in contents:
            content = fit(contents[kind])
            drafts.append(
                Draft(
                    sender=upgrader,
                    type=kind,
                    state_key="",
                    content=_join_rules(version, content) if kind == _JOIN_RULES else content,
                )
            )
    return drafts


def _join_rules(version: RoomVersion, content: dict[str, Any]) -> dict[str, Any]:
    """Return join rules that this version knows, which let no user in whom the old ones keep out."""
    rule = content.get("join_rule")
    if rule == "knock_restricted" and not version.knock_restricted:
        rule = "restricted" if version.restricted else "knock"
    if (rule == "restricted" and not version.restricted) or (rule == "knock" and not version.knocking):
        rule = "invite"
    return {**content, "join_rule": rule}


def kept_aliases(content: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """Return a canonical alias content with only those aliases, empty if none is left."""
    alias, listed = content.get("alias"), content.get("alt_aliases")
    named: dict[str, Any] = {}
    if isinstance(alias, str) and alias in kept:
        named["alias"] = alias
    if isinstance(listed, list) and (others := [other for other in listed if isinstance(other, str) and other in kept]):
        named["alt_aliases"] = others
    return named


def keyed_drafts(upgrader: UserId, state: Iterable[StateContent]) -> list[Draft]:
    """Return the drafts of KEYED_TYPES. A child or parent without `via` counts as removed, and is not copied."""
    return [
        Draft(sender=upgrader, type=each.type, state_key=each.state_key, content=fit(each.content))
        for each in state
        if each.content
    ]


def ban_drafts(upgrader: UserId, bans: Mapping[UserId, str | None], levels: PowerLevels) -> list[Draft]:
    """Return the bans that the upgrader may set in a room with these levels. bans: user id -> reason."""
    own = levels.user_level(upgrader)
    if own < levels.ban:
        return []
    return [
        member_draft(upgrader, user_id, "ban", {"reason": reason})
        for user_id, reason in bans.items()
        if is_user_id(user_id) and levels.user_level(user_id) < own
    ]


def tombstone_draft(upgrader: UserId, new_room_id: RoomId) -> Draft:
    content = {"body": "This room has been replaced", "replacement_room": new_room_id}
    return Draft(sender=upgrader, type=TOMBSTONE, state_key="", content=content)


def closing_drafts(
    upgrader: UserId,
    levels: PowerLevels,
    power_content: Mapping[str, Any],
    alias_content: Mapping[str, Any],
    moved: Collection[str],
) -> list[Draft]:
    """Return the events that close the old room after the tombstone, as far as they are needed and allowed.

    levels, power_content, alias_content: of the old room.
    moved: aliases that point to the new room now.
    """
    drafts: list[Draft] = []
    own = levels.user_level(upgrader)
    named = aliases_in(alias_content, lenient=True)
    if named & set(moved) and own >= levels.event_level(CANONICAL_ALIAS, is_state=True):
        drafts.append(
            Draft(
                sender=upgrader,
                type=CANONICAL_ALIAS,
                state_key="",
                content=kept_aliases(alias_content, named - set(moved)),
            )
        )
    muted = muted_levels(levels)
    if muted and own >= max(levels.event_level(POWER_LEVELS, is_state=True), *muted.values()):
        content = power_content or {"users": dict(levels.users)}
        drafts.append(Draft(sender=upgrader, type=POWER_LEVELS, state_key="", content={**content, **muted}))
    return drafts


def muted_levels(levels: PowerLevels) -> dict[str, int]:
    """Return the levels to raise, so that ordinary members can neither talk nor invite in the old room."""
    least = max(_RESTRICTED, levels.users_default + 1)
    now = {"events_default": levels.events_default, "invite": levels.invite}
    return {name: least for name, level in now.items() if level < least}


def fit(value: Any) -> Any:
    """Return a JSON value that every room version accepts: numbers are truncated to integers within 53 bits."""
    if isinstance(value, dict):
        return {key: fit(each) for key, each in value.items()}
    if isinstance(value, list):
        return [fit(each) for each in value]
    if isinstance(value, float):
        return _within(int(value)) if math.isfinite(value) else 0
    if isinstance(value, int) and not isinstance(value, bool):
        return _within(value)
    return value


def _within(level: int) -> int:
    return max(-MAX_SAFE_INTEGER, min(level, MAX_SAFE_INTEGER))
