"""Push rule evaluation, alone and by groups, compared with a naive evaluator for random rules and events."""

from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import (
    ALL_OFF,
    DEFAULT_GROUP,
    NO_CHANGES,
    DefaultChange,
    PushEvent,
    Recipient,
    RuleChanges,
    RuleSwitches,
    UserRule,
    UserRules,
    affected_rooms,
    changes_from_json,
    changes_to_json,
    full_ruleset,
    group_of,
    individual_triggers,
    shared_rules,
    user_rules,
)
from tests.core.push_rules import naive
from tests.core.push_rules.levels import default_levels
from tests.core.push_rules.strategies import ROOMS, USERS, changes, events, readers, switches

_LEVELS = default_levels(users={"@mod:x": 50})
_ME = Recipient(UserId("@me:x"), "Me")
_YOU, _ROOM = UserId("@you:x"), RoomId("!a:x")


def _rules(some: RuleChanges, with_switches: RuleSwitches = ALL_OFF) -> UserRules:
    return user_rules(changes_to_json(some), with_switches)


@given(changes, switches, events(), readers)
def test_evaluation_follows_the_rules_as_shown(
    some: RuleChanges, with_switches: RuleSwitches, event: PushEvent, recipient: Recipient
) -> None:
    # The rule about invitations is shown as an `event_match`, which ignores case. But ids that differ in case are two
    # users, so it is evaluated exactly.
    state_key = event.value(("state_key",))
    assume(state_key == recipient.user_id or str(state_key).lower() != recipient.user_id.lower())
    shown = orjson.loads(orjson.dumps(full_ruleset(some, recipient.user_id, with_switches)))
    if not with_switches.thread_subscriptions:
        shown = _without_thread_conditions(shown)
    notifies, highlights, actions = naive.evaluate(shown, event, recipient)
    outcome = _rules(some, with_switches).evaluate(event, recipient)
    assert (bool(outcome.notifies), bool(outcome.highlights)) == (notifies, highlights)
    assert list(outcome.actions) == (actions or [])


def test_rule_with_unknown_condition_never_matches() -> None:
    known: Any = {"kind": "event_match", "key": "type", "pattern": "m.x"}
    event = PushEvent({"type": "m.x", "sender": "@a:x", "content": {}}, RoomId("!r:x"), 5, _LEVELS)
    for conditions, matches in (([known], True), ([{"kind": "org.example.moon"}, known], False)):
        rule = UserRule(rule_id="r", conditions=conditions, actions=["notify"])
        outcome = _rules(NO_CHANGES.with_kind("override", [rule])).evaluate(event, _ME)
        assert bool(outcome.notifies) is matches


def _without_thread_conditions(shown: Any) -> Any:
    """The condition is unknown then, so such rules match nothing."""
    for rules in shown["global"].values():
        for rule in rules:
            kinds = [condition["kind"] for condition in rule.get("conditions", [])]
            rule["enabled"] = rule["enabled"] and "io.element.msc4306.thread_subscription" not in kinds
    return shown


@given(changes, switches, events(), readers)
def test_user_without_triggers_has_the_outcome_of_the_group(
    some: RuleChanges, with_switches: RuleSwitches, event: PushEvent, recipient: Recipient
) -> None:
    rules = _rules(some, with_switches)
    triggers = individual_triggers(rules, event.room_id, recipient)
    if (
        recipient.user_id == event.sender
        or recipient.user_id in event.named_users()
        or triggers.words & event.word_keys()
        or event.sender_key() in triggers.senders
        or (with_switches.thread_subscriptions and recipient.subscribed)
    ):
        return
    outcome = rules.evaluate(event, recipient)
    assert shared_rules(rules, event.room_id).evaluate(event) == (outcome.notifies, outcome.highlights)


@given(changes, changes, events())
def test_group_has_one_outcome_for_all_members(one: RuleChanges, other: RuleChanges, event: PushEvent) -> None:
    mine, theirs = (shared_rules(_rules(some), event.room_id) for some in (one, other))
    assert (mine is theirs) == (mine.group == theirs.group)
    assert -(2**63) <= mine.group < 2**63
    if mine.group == DEFAULT_GROUP:
        assert mine.evaluate(event) == shared_rules(user_rules(b""), event.room_id).evaluate(event)


@given(changes, switches)
def test_compact_form_round_trip(some: RuleChanges, with_switches: RuleSwitches) -> None:
    again = changes_from_json(changes_to_json(some))
    assert full_ruleset(again, UserId("@u:x"), with_switches) == full_ruleset(some, UserId("@u:x"), with_switches)
    assert changes_to_json(again) == changes_to_json(some)


@given(changes, switches, st.sampled_from(ROOMS))
def test_rules_matter_only_in_affected_rooms(some: RuleChanges, with_switches: RuleSwitches, room_id: RoomId) -> None:
    everywhere, rooms = affected_rooms(some, with_switches)
    if not everywhere and room_id not in rooms:
        rules = _rules(some, with_switches)
        assert group_of(rules, room_id) == DEFAULT_GROUP
        triggers = individual_triggers(rules, room_id, Recipient(UserId(""), "Tea"))
        of_names = {"tea"} if with_switches.legacy_mentions else frozenset()  # all members are loaded for these
        assert (triggers.words, triggers.senders) == (of_names, frozenset())


def _event(body: str = "hello", *, sender: UserId = _YOU, count: int = 5, **content: Any) -> PushEvent:
    whole = {"msgtype": "m.text", "body": body, **content}
    return PushEvent({"type": "m.room.message", "sender": sender, "content": whole}, RoomId("!a:x"), count, _LEVELS)


def _mentions(value: object) -> dict[str, Any]:
    return {"m.mentions": value}


_NO_MENTIONS: tuple[dict[str, Any], ...] = ({}, {"user_ids": []})
_EDIT: dict[str, Any] = {"m.relates_to": {"rel_type": "m.replace"}}


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (_event(), (1, 0)),
        (_event(count=2), (1, 0)),
        (_event(msgtype="m.notice"), (0, 0)),
        (_event(**_mentions({"user_ids": ["@me:x"]})), (1, 1)),
        (_event(**_mentions({"user_ids": ["@ME:x", 5, None]})), (1, 0)),
        (_event(**_mentions({"room": True})), (1, 0)),
        (_event(**_mentions({"room": True}), sender=UserId("@mod:x")), (1, 1)),
        (_event(**_mentions({"room": 1}), sender=UserId("@mod:x")), (1, 0)),
        (_event(**_EDIT), (0, 0)),
        (_event("Me @room @me:x"), (1, 0)),  # MSC4210: text is no mention
        (_event(sender=UserId("@me:x")), (0, 0)),
    ],
)
def test_the_default_rules(event: PushEvent, outcome: tuple[int, int]) -> None:
    found = user_rules(b"").evaluate(event, _ME)
    assert (found.notifies, found.highlights) == outcome


def _muting(room_id: RoomId = _ROOM, kind: str = "override") -> RuleChanges:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    rule = UserRule(room_id, [], conditions=[condition]) if kind == "override" else UserRule(room_id, [])
    return NO_CHANGES.with_kind(kind, [rule])


def test_equal_rules_are_one_group() -> None:
    """Rules of equal meaning in a room are one group, however they were made."""
    ann, ben = _muting(), _muting().with_kind("room", [UserRule("!b:x", ["notify"])])
    master = NO_CHANGES.with_default(".m.rule.master", DefaultChange(enabled=True))
    assert len({group_of(_rules(some), RoomId("!a:x")) for some in (ann, ben, master)}) == 1
    assert group_of(_rules(ann), RoomId("!b:x")) == DEFAULT_GROUP
    assert group_of(_rules(_muting(kind="room")), RoomId("!a:x")) != DEFAULT_GROUP  # mentions of the room come through
    quiet = (
        NO_CHANGES.with_kind("content", [UserRule("k", ["notify", {"set_tweak": "highlight"}], pattern="honey")])
        .with_kind("sender", [UserRule("@s:x", [])])
        .with_kind("override", [UserRule("off", [], enabled=False, conditions=[])])
        .with_default(".m.rule.message", DefaultChange(actions=["notify", {"set_tweak": "sound", "value": "bing"}]))
        .with_default(".m.rule.is_user_mention", DefaultChange(enabled=False))
    )
    assert group_of(_rules(quiet), RoomId("!a:x")) == DEFAULT_GROUP
    triggers = individual_triggers(_rules(quiet), RoomId("!a:x"), _ME)
    assert (triggers.words, triggers.senders) == (frozenset({"honey"}), frozenset({"@s:x"}))
    muted = RuleChanges({**_muting().rules, "content": quiet.of_kind("content")})
    assert individual_triggers(_rules(muted), RoomId("!a:x"), _ME).words == frozenset()  # never reached there
    assert individual_triggers(_rules(muted), RoomId("!b:x"), _ME).words == {"honey"}


def test_group_numbers_are_stable() -> None:
    """Counters in the database are stored under it."""
    assert group_of(_rules(_muting()), RoomId("!a:x")) == 5716138445788391948
    loud = NO_CHANGES.with_kind("override", [UserRule("x", ["notify"], conditions=[])])
    assert group_of(_rules(loud), RoomId("!a:x")) == 8273973108096048673


@given(events(), st.sampled_from(USERS))
def test_display_name_in_the_body_counts_with_a_rule_for_it(event: PushEvent, user_id: UserId) -> None:
    """contains_display_name is deprecated but still defined. The name is in the same index as keywords."""
    rule = UserRule("name", ["notify", {"set_tweak": "highlight"}], conditions=[{"kind": "contains_display_name"}])
    rules = _rules(NO_CHANGES.with_kind("override", [rule]))
    assert rules.in_room(event.room_id).uses_display_name
    recipient = Recipient(user_id, "Tea time")
    body = event.properties["content"].get("body")
    named = isinstance(body, str) and "tea time" in body.lower() and event.sender != user_id
    if named:
        assert rules.evaluate(event, recipient).highlights
        assert individual_triggers(rules, event.room_id, Recipient(UserId(""), "Tea time")).words & event.word_keys()


def test_legacy_mentions_are_names_and_at_room_in_events_without_m_mentions() -> None:
    rules = user_rules(b"", RuleSwitches(legacy_mentions=True))
    carol = Recipient(UserId("@carol.b:x"), "Tea Time")
    for body, highlights in (
        ("it is tea time!", 1),
        ("teatime", 0),
        ("hey CAROL.B:", 1),
        ("carol", 0),
        ("@room look", 1),
        ("@rooms", 0),
    ):
        outcome = rules.evaluate(_event(body, sender=UserId("@mod:x")), carol)
        assert (outcome.notifies, outcome.highlights) == (1, highlights), body
        triggers = individual_triggers(rules, RoomId("!a:x"), carol)
        shared = shared_rules(rules, RoomId("!a:x")).evaluate(_event(body, sender=UserId("@mod:x")))
        named = bool(triggers.words & _event(body).word_keys())
        assert shared == (1, 1 if body == "@room look" else 0) or named
        for mentions in (*_NO_MENTIONS, None):
            event = _event(body, sender=UserId("@mod:x"), **_mentions(mentions))
            assert rules.evaluate(event, carol).highlights == 0, "this client knows m.mentions"
            assert shared_rules(rules, RoomId("!a:x")).evaluate(event) == (1, 0)
        assert user_rules(b"").evaluate(_event(body, sender=UserId("@mod:x")), carol).highlights == 0, "off by default"
    assert rules.evaluate(_event("@room", sender=UserId("@nobody:x")), carol).highlights == 0, "without the permission"
    # A user's own rule with the same conditions is another one: it holds for every client.
    conditions = default_rule(rules, ".m.rule.roomnotif")
    own = NO_CHANGES.with_kind(
        "override", [UserRule("own", ["notify", {"set_tweak": "highlight"}], conditions=conditions)]
    )
    assert (
        _rules(own, rules.switches)
        .evaluate(_event("@room", sender=UserId("@mod:x"), **_mentions({})), carol)
        .highlights
    )


def default_rule(rules: UserRules, rule_id: str) -> Any:
    shown = full_ruleset(NO_CHANGES, UserId("@u:x"), rules.switches)["global"]
    return next(rule["conditions"] for rule in shown["override"] if rule["rule_id"] == rule_id)


def test_unknown_keys_of_a_later_release_are_skipped() -> None:
    rule = {"rule_id": "a", "actions": [], "pattern": "x", "new": 1}
    changes = changes_from_json(orjson.dumps({"rules": {"content": [rule], "newkind": [rule]}, "new": {}}))
    assert [rule.rule_id for rule in changes.of_kind("content")] == ["a"]
    assert list(full_ruleset(changes, UserId("@u:x"), ALL_OFF)["global"])[:2] == ["override", "content"]
    assert group_of(user_rules(changes_to_json(changes)), RoomId("!a:x")) == DEFAULT_GROUP
