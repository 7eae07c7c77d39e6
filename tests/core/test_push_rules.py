"""Spec: client-server API, "Predefined Rules"."""

import json
from typing import Any

from shared.core.push_rules import default_push_rules
from tests.core.spec_vectors import VECTORS


def test_default_rules_are_those_of_the_spec() -> None:
    spec = json.loads(json.dumps(VECTORS["default_push_rules"]).replace("[the user's Matrix ID]", "@u:d"))
    rules: dict[str, Any] = default_push_rules("@u:d")["global"]
    assert list(rules) == ["override", "content", "room", "sender", "underride"]
    assert rules["override"] == spec["override"]
    assert rules["underride"] == spec["underride"]
    assert rules["content"] == rules["room"] == rules["sender"] == []


def test_each_call_gives_fresh_objects() -> None:
    default_push_rules("@u:d")["global"]["override"][6]["actions"][1]["value"] = False
    assert default_push_rules("@u:d")["global"]["override"][6]["actions"][1] == {"set_tweak": "highlight"}
