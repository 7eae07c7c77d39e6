"""Every numbered rule of every room version, on both of its sides. Spec: rooms/v1 to v12, "Authorisation rules"."""

from collections import defaultdict
from typing import Any

import pytest

from shared.core.errors import AuthRuleViolation
from tests.core.auth_rules import invite_cases, level_cases, member_cases, room_cases
from tests.core.auth_rules.case import CASES, Attempt, Case
from tests.core.auth_rules.numbered import RULES, Does, number_of
from tests.core.rooms import ALICE, BOB, VERSIONS, Room

assert all((invite_cases, level_cases, member_cases, room_cases))  # imported to fill CASES

_BY_RULE: dict[tuple[str, str], list[Case]] = defaultdict(list)
for _case in CASES:
    for _version in filter(_case.holds_for, VERSIONS):
        _BY_RULE[_version, _case.rule].append(_case)


@pytest.mark.parametrize(
    ("version", "name"), _BY_RULE, ids=lambda value: value if value not in VERSIONS else f"v{value}"
)
def test_rule_denies_the_broken_event_only(version: str, name: str) -> None:
    """Each case's event is allowed. Its twin, which differs in one thing, is denied by exactly the named rule."""
    for case in _BY_RULE[version, name]:
        case.build(version, False).judge()
        if case.denied_by is None:
            continue
        with pytest.raises(AuthRuleViolation) as caught:
            case.build(version, True).judge()
        assert caught.value.rule.split(" ")[0] == number_of(version, case.denied_by)
        assert caught.value.section == f"rooms/v{version}#authorisation-rules"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_rule_has_a_case(version: str) -> None:
    """Each effect of a rule is shown by a case. A rule that only heads others has some below it."""
    for number, rule in RULES[version].items():
        cases = _BY_RULE[version, rule.name]
        if rule.does is Does.HEADS:
            assert any(other.startswith(f"{number}.") for other in RULES[version]), number
        elif rule.does is Does.ALLOWS:
            assert cases, number
            assert all(case.denied_by != rule.name for case in cases), number
        else:
            assert any(case.denied_by == rule.name for case in cases), number


@pytest.mark.parametrize("version", VERSIONS)
def test_every_case_is_of_a_known_rule(version: str) -> None:
    names = [rule.name for rule in RULES[version].values()]
    assert len(set(names)) == len(names)
    for case in filter(lambda case: case.holds_for(version), CASES):
        assert {case.rule, case.denied_by} - {None} <= set(names)


@pytest.mark.parametrize("version", VERSIONS)
def test_first_of_several_broken_rules_denies(version: str) -> None:
    """Levels above the sender's, removed and added, in all maps."""
    room = Room(version)
    room.member(BOB, "join")
    room.power_levels(state_default=0, events={"a": 1}, users={"@a:x": 1})
    content: dict[str, Any] = {"state_default": 0, "events": {"b": 1}, "users": {"@b:x": 1}}
    for repaired, name in (
        ({}, "old_entries.level"),
        ({"events": {"a": 1, "b": 1}}, "new_entries.level"),
        ({"events": {"a": 1}}, "old_users.level"),
        ({"users": {"@a:x": 1, "@b:x": 1}}, "new_users.level"),
    ):
        content |= repaired
        with pytest.raises(AuthRuleViolation) as caught:
            Attempt(room, room.make("m.room.power_levels", BOB, content, "")).judge()
        assert caught.value.rule.split(" ")[0] == number_of(version, name)


@pytest.mark.parametrize("version", VERSIONS)
def test_first_of_several_auth_event_faults_denies(version: str) -> None:
    room = Room(version)
    room.member(BOB, "join")
    alice, bob = room.state["m.room.member", ALICE], room.state["m.room.member", BOB]
    event = room.make("m.room.message", ALICE, {})
    for auth_events, name in (([bob, alice, alice], "auth_events.duplicate"), ([bob, alice], "auth_events.selection")):
        with pytest.raises(AuthRuleViolation) as caught:
            Attempt(room, event, auth_events, (bob.event_id,)).judge()
        assert caught.value.rule.split(" ")[0] == number_of(version, name)


@pytest.mark.parametrize("version", VERSIONS)
def test_rule_numbers_have_no_gaps(version: str) -> None:
    """Except 3.4 of version 12, which the page skips."""
    numbers = set(RULES[version]) | ({"3.4"} if version == "12" else set())
    for number in numbers:
        parent, _, own = number.rpartition(".")
        assert not parent or parent in numbers
        if int(own) > 1:
            assert ".".join(filter(None, (parent, str(int(own) - 1)))) in numbers


#: The number of rules on the page of each version, sub-rules included.
_COUNTS = {1: 78, 2: 78, 3: 74, 4: 74, 5: 74, 6: 70, 7: 75, 8: 81, 9: 81, 10: 83, 11: 82, 12: 84}


def test_number_of_rules_per_page() -> None:
    assert {int(version): len(table) for version, table in RULES.items()} == _COUNTS
