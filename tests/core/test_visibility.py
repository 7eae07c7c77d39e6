"""Spec: client-server API, "Room history visibility", "Server behaviour"."""

from typing import Any

import pytest

from shared.core.visibility import may_see
from tests.core.spec_vectors import VECTORS


@pytest.mark.parametrize("case", VECTORS["history_visibility"]["cases"])
def test_visibility_of_all_combinations(case: dict[str, Any]) -> None:
    seen = may_see(case["history_visibility_at_event"], case["membership_at_event"], case["joined_after_event"])
    assert seen is case["visible"]


@pytest.mark.parametrize("odd", ["", "private", "SHARED"])
def test_unknown_visibility_is_shared(odd: str) -> None:
    for membership in (None, "join", "invite", "leave"):
        for joined_since in (False, True):
            assert may_see(odd, membership, joined_since) is may_see("shared", membership, joined_since)


def test_visibility_of_own_memberships() -> None:
    """Before or after the event: the user's own join, their kick, and an invite if invited users may read."""
    assert may_see("joined", None, False, membership_after="join")
    assert may_see("joined", "join", False, membership_after="leave")
    assert may_see("invited", None, False, membership_after="invite")
    assert not may_see("joined", None, False, membership_after="invite")
    assert not may_see("joined", "invite", False, membership_after="leave")


def test_visibility_of_visibility_changes() -> None:
    assert may_see("joined", None, False, visibility_after="world_readable")
    assert may_see("world_readable", None, False, visibility_after="joined")
    assert not may_see("joined", None, True, visibility_after="invited")
