"""Naive push rules, for one event and one user at a time, written from the spec's text ("Predefined rules").

Only the rules that the model's users set are supported.
"""

import re
from dataclasses import dataclass, field
from typing import Any

BY_NAME = "by name"


@dataclass(slots=True)
class UserRules:
    """The rules that a user has changed.

    overrides: muted rooms and BY_NAME; the first that matches decides
    room, sender: id -> True if the rule notifies
    """

    all_off: bool = False
    overrides: list[str] = field(default_factory=list)
    keywords: set[str] = field(default_factory=set)
    room: dict[str, bool] = field(default_factory=dict)
    sender: dict[str, bool] = field(default_factory=dict)
    messages_off: bool = False

    def follow(self, old_room_id: str, new_room_id: str) -> bool:
        """Copy the rules of a room for its successor; return True if that changes a rule."""
        changed = False
        if old_room_id in self.overrides and new_room_id not in self.overrides:
            self.overrides.insert(self.overrides.index(old_room_id) + 1, new_room_id)
            changed = True
        if old_room_id in self.room and new_room_id not in self.room:
            self.room[new_room_id] = self.room[old_room_id]
            changed = True
        return changed


def outcome(
    rules: UserRules,
    user_id: str,
    room_id: str,
    event: dict[str, Any],
    *,
    name: str,
    joined: int,
    may_notify_room: bool,
) -> tuple[int, int]:
    """Return (notifies, highlights) of an event for a user who did not send it. name: their display name."""
    content, kind, state_key = event["content"], event["type"], event.get("state_key")
    mentions = content.get("m.mentions") if isinstance(content.get("m.mentions"), dict) else {}
    body = content.get("body") if isinstance(content.get("body"), str) else ""
    if rules.all_off:
        return 0, 0
    for override in rules.overrides:
        if override == BY_NAME and name and _has_word(body, name):
            return 1, 1
        if override == room_id:
            return 0, 0
    if content.get("msgtype") == "m.notice":
        return 0, 0
    if kind == "m.room.member":
        return int(content.get("membership") == "invite" and state_key == user_id), 0
    if user_id in (mentions.get("user_ids") or ()):
        return 1, 1
    if mentions.get("room") is True and may_notify_room:
        return 1, 1
    if kind == "m.room.tombstone" and state_key == "":
        return 1, 1
    if kind in ("m.reaction", "m.room.server_acl"):
        return 0, 0
    if (content.get("m.relates_to") or {}).get("rel_type") == "m.replace":
        return 0, 0
    if any(_has_word(body, word) for word in rules.keywords):
        return 1, 1
    if room_id in rules.room:
        return int(rules.room[room_id]), 0
    if event["sender"] in rules.sender:
        return int(rules.sender[event["sender"]]), 0
    if kind == "m.room.encrypted":
        return 1, 0
    if kind != "m.room.message":
        return 0, 0
    return int(joined == 2 or not rules.messages_off), 0


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
