"""The default rules of every user. Spec: client-server API v1.19, "Predefined Rules".

Decisions:
- `.m.rule.contains_display_name`, `.m.rule.contains_user_name` and `.m.rule.roomnotif` need `RuleSwitches`, since v1.17
  removed them (MSC4210). Mentions are in `m.mentions`. Text alone mentions nobody, so that clients can detect spam.
  The condition `contains_display_name` is still defined and works in users' own rules.
- The rules for polls (MSC3930, merged, not yet in the specification) have the prefixed names and event types that
  clients use today. The proposal's text writes the event types with escaped dots, as if they were paths. They are
  compared as values, so they have plain dots here.
- Rules of open proposals, MSC4306 and MSC4028, need `RuleSwitches`. They are off by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.core.identifiers import UserId

_NOTIFY = "notify"
_HIGHLIGHT = {"set_tweak": "highlight"}
CONTAINS_DISPLAY_NAME: Final = ".m.rule.contains_display_name"
CONTAINS_USER_NAME: Final = ".m.rule.contains_user_name"
ROOM_NOTIF: Final = ".m.rule.roomnotif"
#: The rules that v1.17 removed. Events with `m.mentions` match none of them.
LEGACY_MENTIONS: Final = frozenset({CONTAINS_DISPLAY_NAME, CONTAINS_USER_NAME, ROOM_NOTIF})
#: All kinds in the order of evaluation. postcontent: MSC4306.
KINDS: Final = ("override", "content", "postcontent", "room", "sender", "underride")


@dataclass(frozen=True, slots=True)
class RuleSwitches:
    """Settings that add rules. They are the same in a whole fleet.

    thread_subscriptions: True adds the kind postcontent (MSC4306).
    encrypted_events: True notifies of every encrypted event, so that clients decide (MSC4028).
    legacy_mentions: True adds the rules that v1.17 removed: names and "@room" in the text of events without
        `m.mentions`.
    """

    thread_subscriptions: bool = False
    encrypted_events: bool = False
    legacy_mentions: bool = False


ALL_OFF: Final = RuleSwitches()
#: For callers to whom the rules about the user's own id do not matter.
ANY_USER: Final = UserId("")


def default_rules_of_kind(kind: str, user_id: UserId, switches: RuleSwitches) -> list[dict[str, Any]]:
    """Return the default rules of a kind, most important first, as new objects.

    user_id: the value where the spec says "the user's Matrix ID".
    The order matters: within a kind the first enabled rule that matches decides. `.m.rule.master` precedes the user's
    own override rules. All other default rules follow the user's own rules of their kind.
    """
    if kind == "override":
        return _override_rules(user_id, switches)
    if kind == "content" and switches.legacy_mentions:
        return [_user_name_rule(user_id)]
    if kind == "underride":
        return _underride_rules()
    if kind == "postcontent" and switches.thread_subscriptions:
        return _thread_rules()
    return []


def default_rule_kinds(switches: RuleSwitches) -> Mapping[str, str]:
    """Return rule id -> kind of every default rule."""
    return {rule["rule_id"]: kind for kind in KINDS for rule in default_rules_of_kind(kind, ANY_USER, switches)}


def _override_rules(user_id: UserId, switches: RuleSwitches) -> list[dict[str, Any]]:
    encrypted = _rule(".org.matrix.msc4028.encrypted_event", [_match("type", "m.room.encrypted")], [_NOTIFY])
    return [
        _rule(".m.rule.master", [], [], enabled=False),
        *([encrypted] if switches.encrypted_events else []),
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
        *([_display_name_rule()] if switches.legacy_mentions else []),
        _rule(
            ".m.rule.is_room_mention",
            [
                _is(r"content.m\.mentions.room", True),
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            [_NOTIFY, dict(_HIGHLIGHT)],
        ),
        *([_at_room_rule()] if switches.legacy_mentions else []),
        _rule(
            ".m.rule.tombstone",
            [_match("type", "m.room.tombstone"), _match("state_key", "")],
            [_NOTIFY, dict(_HIGHLIGHT)],
        ),
        _rule(".m.rule.reaction", [_match("type", "m.reaction")], []),
        _rule(".m.rule.room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")], []),
        _rule(".org.matrix.msc3930.rule.poll_response", [_is("type", "org.matrix.msc3381.poll.response")], []),
        _rule(".m.rule.suppress_edits", [_is(r"content.m\.relates_to.rel_type", "m.replace")], []),
    ]


def _display_name_rule() -> dict[str, Any]:
    actions = [_NOTIFY, _sound("default"), dict(_HIGHLIGHT)]
    return _rule(CONTAINS_DISPLAY_NAME, [{"kind": "contains_display_name"}], actions)


def _at_room_rule() -> dict[str, Any]:
    conditions = [_match("content.body", "@room"), {"kind": "sender_notification_permission", "key": "room"}]
    return _rule(ROOM_NOTIF, conditions, [_NOTIFY, dict(_HIGHLIGHT)])


def _user_name_rule(user_id: str) -> dict[str, Any]:
    """user_id: also the placeholder of `compiled_rule.py`, which is its own local part."""
    actions = [_NOTIFY, _sound("default"), dict(_HIGHLIGHT)]
    rule = _rule(CONTAINS_USER_NAME, [], actions)
    del rule["conditions"]
    return {**rule, "pattern": user_id.removeprefix("@").partition(":")[0]}


def _thread_rules() -> list[dict[str, Any]]:
    """Return the rules of MSC4306. Mentions and keywords precede them, so they notify of unsubscribed threads too."""
    kind = "io.element.msc4306.thread_subscription"
    return [
        _rule(".io.element.msc4306.rule.unsubscribed_thread", [{"kind": kind, "subscribed": False}], []),
        _rule(
            ".io.element.msc4306.rule.subscribed_thread",
            [{"kind": kind, "subscribed": True}],
            [_NOTIFY, _sound("default")],
        ),
    ]


def _underride_rules() -> list[dict[str, Any]]:
    return [
        _rule(".m.rule.call", [_match("type", "m.call.invite")], [_NOTIFY, _sound("ring")]),
        _rule(
            ".m.rule.encrypted_room_one_to_one",
            [_one_to_one(), _match("type", "m.room.encrypted")],
            [_NOTIFY, _sound("default")],
        ),
        _rule(
            ".m.rule.room_one_to_one",
            [_one_to_one(), _match("type", "m.room.message")],
            [_NOTIFY, _sound("default")],
        ),
        _rule(".m.rule.message", [_match("type", "m.room.message")], [_NOTIFY]),
        _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], [_NOTIFY]),
        *_poll_rules("start"),
        *_poll_rules("end"),
    ]


def _poll_rules(what: str) -> list[dict[str, Any]]:
    rule_id = f".org.matrix.msc3930.rule.poll_{what}"
    is_that = _is("type", f"org.matrix.msc3381.poll.{what}")
    return [
        _rule(f"{rule_id}_one_to_one", [_one_to_one(), dict(is_that)], [_NOTIFY, _sound("default")]),
        _rule(rule_id, [is_that], [_NOTIFY]),
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


def _is(key: str, value: str | bool) -> dict[str, Any]:
    return {"kind": "event_property_is", "key": key, "value": value}


def _one_to_one() -> dict[str, Any]:
    return {"kind": "room_member_count", "is": "2"}


def _sound(name: str) -> dict[str, Any]:
    return {"set_tweak": "sound", "value": name}
