"""The work that users' push rules cause is bounded, however the rules and the event are made."""

import time
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from shared.core.errors import MatrixError
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import (
    ALL_OFF,
    NO_CHANGES,
    PushEvent,
    Recipient,
    RuleChanges,
    UserRule,
    UserRules,
    changes_to_json,
    compiled_rule,
    user_rules,
)
from shared.core.push_rules.budget import LEAST_STEPS, STEPS_PER_EVENT, STEPS_PER_USER, share_of
from shared.core.push_rules.event_outcome import EventOutcome
from shared.core.push_rules.ignored_users import IgnoredUsers
from shared.core.push_rules.room_evaluator import RoomEvaluator
from shared.core.push_rules.validation import check_size
from tests.core.push_rules.levels import default_levels

_ROOM = RoomId("!r:x")
_LEVELS = default_levels()
_LOUD = ["notify", {"set_tweak": "highlight"}]


class _Owner:
    def __init__(self, changes: RuleChanges, ignored: Sequence[UserId] = ()) -> None:
        self.rules = user_rules(changes_to_json(changes))
        self.ignored = ignored


class _Room:
    """A room of users @u0:x, @u1:x ..., each with rules of their own."""

    def __init__(self, users: Sequence[RuleChanges]) -> None:
        self.evaluator = RoomEvaluator(_ROOM)
        self.evaluator.use(ALL_OFF, IgnoredUsers())
        self.evaluator.joined = self.evaluator.local = len(users) + 1
        for number, changes in enumerate(users):
            self.evaluator.set_rules(UserId(f"@u{number}:x"), _Owner(changes), joined=True, name="")
        self.ordinal = 0

    def take(self, content: dict[str, Any]) -> tuple[PushEvent, EventOutcome, float]:
        """Return an event, its outcome, and the CPU time that it took."""
        self.ordinal += 1
        event = _event(content)
        began = time.thread_time()
        outcome = self.evaluator.evaluate(self.ordinal, event, "", lambda _: "join")
        return event, outcome, time.thread_time() - began


def _event(content: dict[str, Any]) -> PushEvent:
    properties = {"type": "m.room.message", "sender": "@sender:x", "content": content}
    return PushEvent(properties, _ROOM, 100, _LEVELS)


def _override(*conditions: dict[str, Any], count: int = 1) -> RuleChanges:
    rules = [
        UserRule(f"r{number}", _LOUD, conditions=[{"number": number, **one} for one in conditions])
        for number in range(count)
    ]
    return NO_CHANGES.with_kind("override", rules)


def _patterns(*patterns: str) -> RuleChanges:
    return NO_CHANGES.with_kind("content", [UserRule(pattern, _LOUD, pattern=pattern) for pattern in patterns])


def test_long_list_is_searched_once_per_event() -> None:
    rules = [
        UserRule(
            f"r{number}",
            _LOUD,
            conditions=[{"kind": "event_property_contains", "key": "content.list", "value": f"-{number}"}],
        )
        for number in range(1000)
    ]
    attackers = [NO_CHANGES.with_kind("override", rules[number:]) for number in range(4)]
    room = _Room(attackers)
    _, _, spent = room.take({"body": "x", "list": [str(number) for number in range(31_000)]})
    assert spent < 0.1, "it was 3 seconds"
    matching = _Room([NO_CHANGES.with_kind("override", rules[5:])])
    _, outcome, _ = matching.take({"body": "x", "list": [*map(str, range(100)), "-700"]})
    assert [one[1:] for one in outcome.groups] == [(1, 1)]


def test_long_list_of_mentions_costs_each_of_them_a_look() -> None:
    room = _Room([NO_CHANGES] * 2000)
    ids = [f"@u{number}:x" for number in range(5000)]
    event = _event({"body": "x", "m.mentions": {"user_ids": ids}})
    began = time.thread_time()
    for user_id in ids[:2000]:
        assert user_rules(b"").evaluate(event, Recipient(UserId(user_id))).highlights == 1
    assert time.thread_time() - began < 0.1
    _, outcome, _ = room.take({"body": "x", "m.mentions": {"user_ids": ids[:50]}})
    assert len(outcome.users) == 50


def test_rules_beyond_the_share_do_not_match_and_default_rules_do() -> None:
    hostile = _patterns(*(f"*{'ab?' * 5}{number}*" for number in range(100)), "hello")
    body = "hello " + "ab" * 15_000
    room = _Room([hostile, NO_CHANGES])
    event, outcome, _ = room.take({"body": body})
    assert event.exceeded_by and set(event.exceeded_by) == {"@u0:x"}
    assert [one[1:] for one in outcome.groups] == [(1, 0), (1, 0)], "the default rule of messages notifies"
    assert outcome.users == (), "the last of their own rules was not reached"
    event, outcome, _ = room.take({"body": "hello"})
    assert not event.exceeded_by
    assert outcome.users == (("@u0:x", 0, 1),)


def test_many_costly_users_leave_a_share_to_the_others() -> None:
    hostile = [_patterns(*(f"*{'ab?' * 5}{number}*{user}" for number in range(99))) for user in range(20)]
    room = _Room([*hostile, _patterns("*urgent*")])
    event, outcome, spent = room.take({"body": "this is most urgently needed " + "ab " * 500})
    assert [one[1:] for one in outcome.groups].count((1, 1)) == 1
    assert "@u20:x" not in event.exceeded_by
    assert spent < 0.5


_TEXTS = {
    "words": "a " * 30_000,
    "one word": "a" * 60_000,
    "letters": "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))),
    "ordinary": "The hive is full of honey, and all the bees are busy. " * 20,
}
_RULES = {
    "stars": _patterns(*(f"*{'a*' * 7}b{number}" for number in range(100))),
    "question marks": _patterns(*(f"{'a?' * 15}b{number}" for number in range(80))),
    "words": _patterns(*(f"{'a ' * 100}b{number}" for number in range(300))),
    "words that are there": _patterns(*("a " * number + "a" for number in range(1, 200))),
    "long words": _patterns(*(f"{'a' * 400}b{number}" for number in range(250))),
    "letters": _patterns(*("".join(map(chr, range(0x4E00 + n, 0x4E00 + n + 50))) + "?b" for n in range(10))),
    "paths": _override({"kind": "event_match", "key": ".".join(["content"] + ["a"] * 31), "pattern": "b*"}, count=99),
    "conditions": _override(*([{"kind": "room_member_count", "is": "<1000"}] * 5), {"kind": "x"}, count=300),
    "senders": NO_CHANGES.with_kind("sender", [UserRule(f"@sender{n}:x", _LOUD) for n in range(300)]),
}


@pytest.mark.parametrize("rules", _RULES.values(), ids=_RULES)
@pytest.mark.parametrize("body", _TEXTS.values(), ids=_TEXTS)
def test_hostile_rules_take_little_time_with_any_message(rules: RuleChanges, body: str) -> None:
    """Ten accounts with the same rules, as costly as the endpoint takes or costlier, and one message."""
    nested: Any = "b"
    for _ in range(31):
        nested = {"a": nested}
    own = [rules.with_kind("room", [UserRule(f"!{number}:x", [])]) for number in range(10)]
    # Unlike rules about other rooms, these make ten groups.
    own = [one.with_kind("underride", [UserRule("u", _LOUD, conditions=_only(n))]) for n, one in enumerate(own)]
    room = _Room(own)
    room.take({"body": "first"})
    _, _, spent = room.take({"body": body, "a": nested["a"]})

    assert spent < 0.25


def _only(number: int) -> list[dict[str, Any]]:
    return [{"kind": "event_property_is", "key": "content.number", "value": number}]


def test_rules_about_a_long_display_name_take_little_time() -> None:
    never = {"kind": "event_match", "key": "type", "pattern": "x"}
    conditions = [{"kind": "contains_display_name"}] * 31 + [never]
    rules = [UserRule(f"r{n}", _LOUD, conditions=conditions) for n in range(110)]
    changes = NO_CHANGES.with_kind("override", rules)
    check_size(changes)
    room = _Room([changes, _override({"kind": "contains_display_name"})])
    name = "bee " * 249 + "bee"
    for number in range(2):
        room.evaluator.rename(UserId(f"@u{number}:x"), name)
    event, outcome, spent = room.take({"body": name.upper()})
    assert spent < 0.05
    assert "@u0:x" in event.exceeded_by and outcome.users == (("@u1:x", 0, 1),)


def test_rules_too_costly_for_an_ordinary_message_are_refused() -> None:
    check_size(_patterns(*(f"*word{number}*" for number in range(100))))
    with pytest.raises(MatrixError, match="steps of work") as refused:
        check_size(_patterns(*("?" + "a" * 500 + str(number) for number in range(100))))
    assert (refused.value.errcode, refused.value.status) == ("M_INVALID_PARAM", 400)
    with pytest.raises(MatrixError, match="words or senders"):
        check_size(_patterns(*(f"word{number}" for number in range(301))))


def test_accepted_rules_stay_within_the_share_with_an_ordinary_message() -> None:
    kept: list[str] = []
    for number in range(100):
        try:
            check_size(_patterns(*kept, f"*{'ab?' * 5}{number}*"))
        except MatrixError:
            break
        kept.append(f"*{'ab?' * 5}{number}*")
    event, _, _ = _Room([_patterns(*kept)]).take({"body": "ab" * 1024})
    assert len(kept) > 5 and not event.exceeded_by


def test_shares_are_equal_and_bounded() -> None:
    assert share_of(0) == share_of(1) == STEPS_PER_USER
    assert share_of(1000) == STEPS_PER_EVENT // 1000
    assert share_of(10**9) == LEAST_STEPS


def test_change_of_one_rule_compiles_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    present = compiled_rule.compile_rule

    def compile_noted(*args: Any) -> Any:
        compiled.append(args[1])
        return present(*args)

    monkeypatch.setattr(compiled_rule, "compile_rule", compile_noted)
    rules = [UserRule(f"r{n}", _LOUD, conditions=_only(n)) for n in range(200)]
    before = user_rules(changes_to_json(NO_CHANGES.with_kind("override", rules)))
    assert len(compiled) == 200, "the default rules are compiled once for all users"
    rules[7] = UserRule("r7", [], conditions=_only(7))
    now = user_rules(changes_to_json(NO_CHANGES.with_kind("override", [*rules[50:], *rules[:50]])), ALL_OFF, before)
    assert [rule["rule_id"] for rule in compiled[200:]] == ["r7"]
    me = Recipient(UserId("@me:x"))
    for number, highlights in ((7, 0), (8, 1), (150, 1)):
        assert now.evaluate(_event({"number": number}), me).highlights == highlights
    assert before.evaluate(_event({"number": 7}), me).highlights == 1


def test_rooms_share_the_rules_that_are_about_no_room() -> None:
    rules = UserRules(NO_CHANGES.with_kind("room", [UserRule("!a:x", []), UserRule("!b:x", [])]), ALL_OFF)
    plain = rules.in_room(RoomId("!c:x"))
    assert rules.in_room(RoomId("!d:x")) is plain
    a = rules.in_room(RoomId("!a:x"))
    assert a is not plain and rules.in_room(RoomId("!a:x")) is a
    assert orjson.loads(changes_to_json(NO_CHANGES) or b"{}") == {}
