"""Spec: client-server API, "Predefined Rules"; MSC3930, MSC4028, MSC4306."""

import json
from typing import Any

from shared.core.identifiers import UserId
from shared.core.push_rules import ALL_OFF, NO_CHANGES, RuleSwitches, full_ruleset
from tests.core.spec_vectors import VECTORS


def _default_rules(switches: RuleSwitches = ALL_OFF) -> dict[str, Any]:
    rules: dict[str, Any] = full_ruleset(NO_CHANGES, UserId("@u:d"), switches)["global"]
    return rules


def _of_spec(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules if rule["rule_id"].startswith(".m.rule.")]


def test_default_rules_are_those_of_the_spec() -> None:
    spec = json.loads(json.dumps(VECTORS["default_push_rules"]).replace("[the user's Matrix ID]", "@u:d"))
    rules = _default_rules()
    assert list(rules) == ["override", "content", "room", "sender", "underride"]
    assert _of_spec(rules["override"]) == spec["override"]
    assert _of_spec(rules["underride"]) == spec["underride"]
    assert rules["content"] == rules["room"] == rules["sender"] == []


def test_poll_rules_are_where_the_proposal_has_them() -> None:
    rules = _default_rules()
    override, underride = ([rule["rule_id"] for rule in rules[kind]] for kind in ("override", "underride"))
    prefix = ".org.matrix.msc3930.rule"
    assert override[override.index(".m.rule.room.server_acl") + 1] == f"{prefix}.poll_response"
    assert underride[underride.index(".m.rule.encrypted") + 1 :] == [
        f"{prefix}.poll_{what}{size}" for what in ("start", "end") for size in ("_one_to_one", "")
    ]


def test_rules_of_open_proposals_are_off_by_default() -> None:
    before = _default_rules()
    after = _default_rules(RuleSwitches(thread_subscriptions=True, encrypted_events=True))
    assert list(after) == ["override", "content", "postcontent", "room", "sender", "underride"]
    assert [r["rule_id"] for r in after["override"]][:2] == [".m.rule.master", ".org.matrix.msc4028.encrypted_event"]
    assert [r["rule_id"] for r in after["postcontent"]] == [
        ".io.element.msc4306.rule.unsubscribed_thread",
        ".io.element.msc4306.rule.subscribed_thread",
    ]
    del after["postcontent"], after["override"][1]
    assert after == before


def test_default_rules_are_new_objects() -> None:
    _default_rules()["override"][6]["actions"][1]["value"] = False
    assert _default_rules()["override"][6]["actions"][1] == {"set_tweak": "highlight"}
