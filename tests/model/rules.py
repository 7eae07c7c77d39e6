"""Push rules read naively, one event and one user at a time. Written from the spec's text ("Predefined rules").

It knows the rules that the model's users set, and no others.
"""

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class UserRules:
    """What a user changed. muted_by_override, room, sender: whether a rule of that kind notifies."""

    all_off: bool = False
    muted_by_override: set[str] = field(default_factory=set)
    keywords: set[str] = field(default_factory=set)
    room: dict[str, bool] = field(default_factory=dict)
    sender: dict[str, bool] = field(default_factory=dict)
    messages_off: bool = False

    def copy(self) -> "UserRules":
        return UserRules(
            self.all_off, set(self.muted_by_override), set(self.keywords), dict(self.room), dict(self.sender),
            self.messages_off,
        )  # fmt: skip


def outcome(
    rules: UserRules, user_id: str, room_id: str, event: dict[str, Any], *, joined: int, may_notify_room: bool
) -> tuple[int, int]:
    """Return (notifies, highlights) of an event for a user who did not send it."""
    content, kind, state_key = event["content"], event["type"], event.get("state_key")
    mentions = content.get("m.mentions") if isinstance(content.get("m.mentions"), dict) else {}
    if rules.all_off or room_id in rules.muted_by_override:
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
    body = content.get("body") if isinstance(content.get("body"), str) else ""
    if any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", body, re.IGNORECASE) for word in rules.keywords):
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
