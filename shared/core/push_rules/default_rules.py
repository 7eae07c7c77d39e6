"""The rules that every user starts with. Spec: client-server API v1.19, "Predefined Rules"."""

from typing import Any

_NOTIFY = "notify"
_HIGHLIGHT = {"set_tweak": "highlight"}


def default_push_rules(user_id: str) -> dict[str, Any]:
    """Return the ruleset of a user who has changed nothing, as GET /pushrules/ answers it: `{"global": {...}}`.

    user_id: fills in where the spec says "the user's Matrix ID". Fresh objects at each call.
    Order matters: within a kind the first enabled rule that matches decides. `.m.rule.master` stands above the
    user's own override rules, all other defaults below them.
    """
    return {
        "global": {
            "override": _override_rules(user_id),
            "content": [],
            "room": [],
            "sender": [],
            "underride": _underride_rules(),
        }
    }


def _override_rules(user_id: str) -> list[dict[str, Any]]:
    return [
        _rule(".m.rule.master", [], [], enabled=False),
        _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")], []),
        _rule(
            ".m.rule.invite_for_me",
            [
                _match("type", "m.room.member"),
                _match("content.membership", "invite"),
                _match("state_key", user_id),
            ],
            [_NOTIFY, _sound("default")],
        ),
        _rule(".m.rule.member_event", [_match("type", "m.room.member")], []),
        _rule(
            ".m.rule.is_user_mention",
            [{"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id}],
            [_NOTIFY, _sound("default"), dict(_HIGHLIGHT)],
        ),
        _rule(
            ".m.rule.is_room_mention",
            [
                {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            [_NOTIFY, dict(_HIGHLIGHT)],
        ),
        _rule(
            ".m.rule.tombstone",
            [_match("type", "m.room.tombstone"), _match("state_key", "")],
            [_NOTIFY, dict(_HIGHLIGHT)],
        ),
        _rule(".m.rule.reaction", [_match("type", "m.reaction")], []),
        _rule(".m.rule.room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")], []),
        _rule(
            ".m.rule.suppress_edits",
            [{"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"}],
            [],
        ),
    ]


def _underride_rules() -> list[dict[str, Any]]:
    one_to_one = {"kind": "room_member_count", "is": "2"}
    return [
        _rule(".m.rule.call", [_match("type", "m.call.invite")], [_NOTIFY, _sound("ring")]),
        _rule(
            ".m.rule.encrypted_room_one_to_one",
            [dict(one_to_one), _match("type", "m.room.encrypted")],
            [_NOTIFY, _sound("default")],
        ),
        _rule(
            ".m.rule.room_one_to_one",
            [dict(one_to_one), _match("type", "m.room.message")],
            [_NOTIFY, _sound("default")],
        ),
        _rule(".m.rule.message", [_match("type", "m.room.message")], [_NOTIFY]),
        _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], [_NOTIFY]),
    ]


def _rule(
    rule_id: str, conditions: list[dict[str, Any]], actions: list[Any], *, enabled: bool = True
) -> dict[str, Any]:
    return {
        "rule_id": rule_id,
        "default": True,
        "enabled": enabled,
        "conditions": conditions,
        "actions": actions,
    }


def _match(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _sound(name: str) -> dict[str, Any]:
    return {"set_tweak": "sound", "value": name}
