"""Random rules, events and recipients made from few words, so that they match often."""

from typing import Any

from hypothesis import strategies as st

from shared.core.identifiers import RoomId
from shared.core.push_rules import (
    DefaultChange,
    PushEvent,
    Recipient,
    RuleChanges,
    RuleSwitches,
    UserRule,
)
from tests.core.push_rules.levels import default_levels

ROOMS = (RoomId("!a:x"), RoomId("!b:x"), RoomId("!B:x"))
USERS = ("@ann:x", "@Ann:x", "@ben:x", "@c*:x")
_TEXT = st.text(alphabet="aAbß _-*?.\\é0", max_size=5)
_WORDS = st.sampled_from(
    ["tea", "Tea", "TEA time", "ti", "time", "te*", "t?a", "*", "", " ", "c++", "日本", "a_b", "ein"]
)
_SOME = st.one_of(_WORDS, _TEXT, st.sampled_from(USERS), st.sampled_from(ROOMS))
_KEYS = st.sampled_from(
    [
        "type",
        "sender",
        "room_id",
        "state_key",
        "content.body",
        "content.msgtype",
        r"content.m\.x.y",
        "content",
        r"content.m\.mentions.user_ids",
        "content.list",
        "content.number",
        "unsigned.x",
        "",
        ".",
        "auth_events",
    ]
)
_VALUES = st.one_of(_SOME, st.sampled_from([0, 1, True, False, None, -5]))
_TYPES = st.sampled_from(
    [
        "m.room.message",
        "M.room.message",
        "m.room.member",
        "m.room.encrypted",
        "m.reaction",
        "m.room.tombstone",
        "m.room.server_acl",
        "m.call.invite",
        "org.matrix.msc3381.poll.start",
        "org.matrix.msc3381.poll.response",
    ]
)

conditions = st.one_of(
    st.builds(lambda key, pattern: {"kind": "event_match", "key": key, "pattern": pattern}, _KEYS, _SOME),
    st.builds(lambda key, value: {"kind": "event_property_is", "key": key, "value": value}, _KEYS, _VALUES),
    st.builds(lambda key, value: {"kind": "event_property_contains", "key": key, "value": value}, _KEYS, _VALUES),
    st.sampled_from(
        [
            {"kind": "contains_display_name"},
            {"kind": "nobody knows"},
            {"kind": "sender_notification_permission", "key": "room"},
            {"kind": "sender_notification_permission", "key": "other"},
            {"kind": "io.element.msc4306.thread_subscription", "subscribed": True},
        ]
    ),
    st.builds(
        lambda sign, number: {"kind": "room_member_count", "is": f"{sign}{number}"},
        st.sampled_from(["", "==", "<", ">", "<=", ">="]),
        st.integers(1, 4),
    ),
)
actions = st.lists(
    st.sampled_from(
        [
            "notify",
            {"set_tweak": "highlight"},
            {"set_tweak": "highlight", "value": False},
            {"set_tweak": "sound", "value": "bing"},
        ]
    ),
    max_size=3,
)
_POOL = ("one", "two", "three", *ROOMS, *USERS)


def _rules(kind: str) -> st.SearchStrategy[list[UserRule]]:
    conditional = kind in ("override", "underride", "postcontent")
    rule = st.builds(
        UserRule,
        st.sampled_from(_POOL),
        actions,
        st.booleans() | st.just(True),
        st.lists(conditions, max_size=2) if conditional else st.none(),
        _SOME if kind == "content" else st.none(),
    )
    return st.lists(rule, max_size=3, unique_by=lambda each: each.rule_id)


changes = st.builds(
    RuleChanges,
    st.fixed_dictionaries(
        {},
        optional={kind: _rules(kind) for kind in ("override", "content", "postcontent", "room", "sender", "underride")},
    ),
    st.dictionaries(
        st.sampled_from([".m.rule.master", ".m.rule.message", ".m.rule.is_user_mention", ".m.rule.suppress_notices"]),
        st.builds(DefaultChange, st.none() | st.booleans(), st.none() | actions),
        max_size=2,
    ),
)
switches = st.builds(RuleSwitches, st.booleans(), st.booleans(), st.booleans())
readers = st.builds(
    Recipient, st.sampled_from(USERS), st.sampled_from(["", " ", "Tea", "ann", "time*", "日"]), st.booleans()
)


@st.composite
def events(draw: st.DrawFn, room_id: RoomId | None = None) -> PushEvent:
    content: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "body": _SOME | st.builds(lambda a, b: f"{a} {b}", _WORDS, _WORDS) | st.just(7),
                "msgtype": st.sampled_from(["m.text", "m.notice"]),
                "membership": st.sampled_from(["invite", "join"]),
                "m.x": st.builds(lambda v: {"y": v}, _VALUES),
                "list": st.lists(_VALUES, max_size=3),
                "number": _VALUES,
                "m.relates_to": st.just({"rel_type": "m.replace"}),
                "m.mentions": st.fixed_dictionaries(
                    {}, optional={"user_ids": st.lists(st.sampled_from(USERS), max_size=2), "room": st.booleans()}
                ),
            },
        )
    )
    properties = {"type": draw(_TYPES), "sender": draw(st.sampled_from(USERS)), "content": content}
    if draw(st.booleans()):
        properties["state_key"] = draw(st.sampled_from(["", *USERS]))
    levels = default_levels(
        users=draw(st.dictionaries(st.sampled_from(USERS), st.sampled_from([0, 50]))),
        notifications=draw(st.sampled_from([{}, {"room": 0}, {"other": 0}])),
    )
    return PushEvent(
        properties,
        room_id or draw(st.sampled_from(ROOMS)),
        draw(st.integers(1, 4)),
        levels,
        in_thread=draw(st.booleans()),
    )
