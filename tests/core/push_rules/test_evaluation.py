"""Judging against a naive second evaluator, alone and by groups, under random rules and events."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
_ME = Recipient("@me:x", "Me")


def _rules(some: RuleChanges, with_switches: RuleSwitches = ALL_OFF) -> UserRules:
    return user_rules(changes_to_json(some), with_switches)


@given(changes, switches, events(), readers)
def test_one_is_judged_as_the_rules_that_are_shown_say(
    some: RuleChanges, with_switches: RuleSwitches, event: PushEvent, recipient: Recipient
) -> None:
    shown = orjson.loads(orjson.dumps(full_ruleset(some, recipient.user_id, with_switches)))
    if not with_switches.thread_subscriptions:
        shown = _without_thread_conditions(shown)
    notifies, highlights, actions = naive.evaluate(shown, event, recipient)
    outcome = _rules(some, with_switches).evaluate(event, recipient)
    assert (bool(outcome.notifies), bool(outcome.highlights)) == (notifies, highlights)
    assert list(outcome.actions) == (actions or [])


def _without_thread_conditions(shown: Any) -> Any:
    """The condition is unknown then: such rules match nothing."""
    for rules in shown["global"].values():
        for rule in rules:
            kinds = [condition["kind"] for condition in rule.get("conditions", [])]
            rule["enabled"] = rule["enabled"] and "io.element.msc4306.thread_subscription" not in kinds
    return shown


@given(changes, switches, events(), readers)
def test_whom_nothing_names_is_judged_as_his_group(
    some: RuleChanges, with_switches: RuleSwitches, event: PushEvent, recipient: Recipient
) -> None:
    rules = _rules(some, with_switches)
    triggers = individual_triggers(rules, event.room_id, recipient.display_name)
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
def test_a_group_means_the_same_for_all_its_members(one: RuleChanges, other: RuleChanges, event: PushEvent) -> None:
    mine, theirs = (shared_rules(_rules(some), event.room_id) for some in (one, other))
    assert (mine is theirs) == (mine.group == theirs.group)
    assert -(2**63) <= mine.group < 2**63
    if mine.group == DEFAULT_GROUP:
        assert mine.evaluate(event) == shared_rules(user_rules(b""), event.room_id).evaluate(event)


@given(changes, switches)
def test_the_compact_form_loses_nothing(some: RuleChanges, with_switches: RuleSwitches) -> None:
    again = changes_from_json(changes_to_json(some))
    assert full_ruleset(again, "@u:x", with_switches) == full_ruleset(some, "@u:x", with_switches)
    assert changes_to_json(again) == changes_to_json(some)


@given(changes, switches, st.sampled_from(ROOMS))
def test_elsewhere_rules_matter_only_where_they_say(
    some: RuleChanges, with_switches: RuleSwitches, room_id: str
) -> None:
    everywhere, rooms = affected_rooms(some, with_switches)
    if not everywhere and room_id not in rooms:
        rules = _rules(some, with_switches)
        assert group_of(rules, room_id) == DEFAULT_GROUP
        triggers = individual_triggers(rules, room_id, "Tea")
        assert (triggers.words, triggers.senders) == (frozenset(), frozenset())


def _event(body: str = "hello", *, sender: str = "@you:x", count: int = 5, **content: Any) -> PushEvent:
    whole = {"msgtype": "m.text", "body": body, **content}
    return PushEvent({"type": "m.room.message", "sender": sender, "content": whole}, "!a:x", count, _LEVELS)


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (_event(), (1, 0)),
        (_event(count=2), (1, 0)),
        (_event(msgtype="m.notice"), (0, 0)),
        (_event(**{"m.mentions": {"user_ids": ["@me:x"]}}), (1, 1)),
        (_event(**{"m.mentions": {"user_ids": ["@ME:x", 5, None]}}), (1, 0)),
        (_event(**{"m.mentions": {"room": True}}), (1, 0)),
        (_event(**{"m.mentions": {"room": True}}, sender="@mod:x"), (1, 1)),
        (_event(**{"m.mentions": {"room": 1}}, sender="@mod:x"), (1, 0)),
        (_event(**{"m.relates_to": {"rel_type": "m.replace"}}), (0, 0)),
        (_event("Me @room @me:x"), (1, 0)),  # MSC4210: text mentions nobody
        (_event(sender="@me:x"), (0, 0)),
    ],
)
def test_the_default_rules(event: PushEvent, outcome: tuple[int, int]) -> None:
    found = user_rules(b"").evaluate(event, _ME)
    assert (found.notifies, found.highlights) == outcome


def _muting(room_id: str = "!a:x", kind: str = "override") -> RuleChanges:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    rule = UserRule(room_id, [], conditions=[condition]) if kind == "override" else UserRule(room_id, [])
    return NO_CHANGES.with_kind(kind, [rule])


def test_groups_are_few() -> None:
    """Equal meaning in a room is one group, however it came about."""
    ann, ben = _muting(), _muting().with_kind("room", [UserRule("!b:x", ["notify"])])
    master = NO_CHANGES.with_default(".m.rule.master", DefaultChange(enabled=True))
    assert len({group_of(_rules(some), "!a:x") for some in (ann, ben, master)}) == 1
    assert group_of(_rules(ann), "!b:x") == DEFAULT_GROUP
    assert group_of(_rules(_muting(kind="room")), "!a:x") != DEFAULT_GROUP  # mentions of the room come through
    quiet = (
        NO_CHANGES.with_kind("content", [UserRule("k", ["notify", {"set_tweak": "highlight"}], pattern="honey")])
        .with_kind("sender", [UserRule("@s:x", [])])
        .with_kind("override", [UserRule("off", [], enabled=False, conditions=[])])
        .with_default(".m.rule.message", DefaultChange(actions=["notify", {"set_tweak": "sound", "value": "bing"}]))
        .with_default(".m.rule.is_user_mention", DefaultChange(enabled=False))
    )
    assert group_of(_rules(quiet), "!a:x") == DEFAULT_GROUP
    triggers = individual_triggers(_rules(quiet), "!a:x", "Me")
    assert (triggers.words, triggers.senders) == ({"honey"}, {"@s:x"})
    muted = RuleChanges({**_muting().rules, "content": quiet.of_kind("content")})
    assert individual_triggers(_rules(muted), "!a:x", "Me").words == frozenset()  # never reached there
    assert individual_triggers(_rules(muted), "!b:x", "Me").words == {"honey"}


def test_the_number_of_a_group_never_changes() -> None:
    """Counters in the database are kept under it."""
    assert group_of(_rules(_muting()), "!a:x") == 5716138445788391948
    loud = NO_CHANGES.with_kind("override", [UserRule("x", ["notify"], conditions=[])])
    assert group_of(_rules(loud), "!a:x") == 8273973108096048673


@given(events(), st.sampled_from(USERS))
def test_a_name_in_the_body_counts_where_a_rule_asks_for_it(event: PushEvent, user_id: str) -> None:
    """contains_display_name is deprecated and still defined; the name is looked up by the same index as keywords."""
    rule = UserRule("name", ["notify", {"set_tweak": "highlight"}], conditions=[{"kind": "contains_display_name"}])
    rules = _rules(NO_CHANGES.with_kind("override", [rule]))
    assert rules.uses_display_name
    recipient = Recipient(user_id, "Tea time")
    body = event.properties["content"].get("body")
    named = isinstance(body, str) and "tea time" in body.lower() and event.sender != user_id
    if named:
        assert rules.evaluate(event, recipient).highlights
        assert individual_triggers(rules, event.room_id, "Tea time").words & event.word_keys()


def test_what_a_later_release_stores_is_passed_over() -> None:
    rule = {"rule_id": "a", "actions": [], "pattern": "x", "new": 1}
    changes = changes_from_json(orjson.dumps({"rules": {"content": [rule], "newkind": [rule]}, "new": {}}))
    assert [rule.rule_id for rule in changes.of_kind("content")] == ["a"]
    assert list(full_ruleset(changes, "@u:x", ALL_OFF)["global"])[:2] == ["override", "content"]
    assert group_of(user_rules(changes_to_json(changes)), "!a:x") == DEFAULT_GROUP
