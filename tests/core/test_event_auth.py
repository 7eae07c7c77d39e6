"""The surroundings of the authorization rules: selection of auth events, redactions that take effect, odd content.

The rules themselves are tested in tests/core/auth_rules. Spec: server-server API, "Auth events selection"; rooms/v3,
"Handling redactions".
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from shared.core.errors import AuthRuleViolation, MatrixError
from shared.core.event_auth import auth_types_for, check_auth, check_auth_events, may_apply_redaction
from shared.core.events import Event
from shared.core.events.readers import power_levels_of
from shared.core.room_versions import ROOM_VERSIONS
from shared.core.signing import generate_signing_key, sign_json
from tests.core import json_values
from tests.core.auth_rules.numbered import RULES, Does, number_of
from tests.core.rooms import ALICE, BOB, CAROL, VERSIONS, Room, versions_where


def membership(value: str, **more: Any) -> dict[str, Any]:
    return {"membership": value, **more}


@pytest.mark.parametrize("name", VERSIONS)
def test_auth_event_selection(name: str) -> None:
    version = ROOM_VERSIONS[name]
    create = [("m.room.create", "")] if version.create_in_auth_events else []
    common = [*create, ("m.room.power_levels", "")]

    def selected(event_type: str, state_key: str | None, content: dict[str, Any]) -> list[tuple[str, str]]:
        return auth_types_for(version, type=event_type, sender=ALICE, state_key=state_key, content=content)

    alice, bob, rules = ("m.room.member", ALICE), ("m.room.member", BOB), ("m.room.join_rules", "")
    assert selected("m.room.create", "", {}) == []
    assert selected("m.room.message", None, {}) == [*common, alice]
    assert selected("m.room.topic", BOB, membership("invite")) == [*common, alice]
    assert selected("m.room.member", ALICE, membership("join")) == [*common, alice, rules]
    assert selected("m.room.member", BOB, membership("invite")) == [*common, alice, bob, rules]
    assert selected("m.room.member", ALICE, membership("knock")) == [*common, alice, rules]
    assert selected("m.room.member", BOB, membership("ban")) == [*common, alice, bob]
    signed = {"signed": {"token": "t"}}
    assert selected("m.room.member", BOB, membership("invite", third_party_invite=signed)) == [
        *common,
        alice,
        bob,
        rules,
        ("m.room.third_party_invite", "t"),
    ]
    join = membership("join", join_authorised_via_users_server=CAROL)
    authoriser = [("m.room.member", CAROL)] if version.restricted else []
    assert selected("m.room.member", ALICE, join) == [*common, alice, rules, *authoriser]
    no_tokens: list[Any] = [1, [], {"signed": 1}, {"signed": {"token": 1}}]
    for odd in no_tokens:
        assert selected("m.room.member", BOB, membership("invite", third_party_invite=odd)) == [
            *common,
            alice,
            bob,
            rules,
        ]


@pytest.mark.parametrize("name", versions_where(redaction_rule=False))
def test_redactions_that_take_effect(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    target = room.add("m.room.message", ALICE, {})
    own = room.add("m.room.message", BOB, {})
    levels = power_levels_of(room.version, room.create, None)
    for sender, redacted, applies in ((BOB, target, False), (BOB, own, True), (ALICE, own, True)):
        redaction = room.add("m.room.redaction", sender, {}, redacts=redacted.event_id)
        assert may_apply_redaction(room.version, redaction, redacted, levels) is applies
    assert not may_apply_redaction(room.version, redaction, target, levels)


@pytest.mark.parametrize("name", versions_where(redaction_rule=False))
def test_the_redact_level_is_enough(name: str) -> None:
    room = Room(name)
    room.member(BOB, "join")
    target = room.add("m.room.message", ALICE, {})
    redaction = room.add("m.room.redaction", BOB, {}, redacts=target.event_id)
    for level, applies in ((49, False), (50, True)):
        levels = power_levels_of(room.version, room.create, room.power_levels(users_default=level))
        assert may_apply_redaction(room.version, redaction, target, levels) is applies


@pytest.mark.parametrize("name", versions_where(redaction_rule=True))
def test_redaction_accepted_by_the_auth_rule_takes_effect(name: str) -> None:
    room = Room(name)
    target, other = room.add("m.room.message", ALICE, {}), room.add("m.room.message", ALICE, {})
    redaction = room.add("m.room.redaction", ALICE, {}, redacts=target.event_id)
    levels = power_levels_of(room.version, room.create, None)
    assert may_apply_redaction(room.version, redaction, target, levels)
    assert not may_apply_redaction(room.version, redaction, other, levels)


@pytest.mark.parametrize("name", VERSIONS)
def test_limit_on_keys_tried_for_a_third_party_invite(name: str) -> None:
    """The spec has no limit. This server's limit keeps an event of 64 KiB from costing seconds."""
    right, wrong = generate_signing_key(b"i" * 32, "0"), generate_signing_key(b"o" * 32, "0")
    signed = sign_json({"mxid": BOB, "token": "t"}, "id.example", right)
    for others, allowed in ((63, True), (64, False)):
        room = Room(name)
        keys = [{"public_key": key.verify_key_base64} for key in (*[wrong] * others, right)]
        room.add("m.room.third_party_invite", ALICE, {"public_keys": keys}, "t")
        invite = room.make("m.room.member", ALICE, membership("invite", third_party_invite={"signed": signed}), BOB)
        if allowed:
            check_auth(room.version, invite, room.state, room.create)
        else:
            with pytest.raises(AuthRuleViolation, match=f"rule {number_of(name, 'third_party.otherwise')} "):
                check_auth(room.version, invite, room.state, room.create)


_odd = json_values.strict_values
_odd_contents = st.fixed_dictionaries(
    {},
    optional={
        "membership": st.sampled_from(["join", "invite", "leave", "ban", "knock"]) | _odd,
        "join_authorised_via_users_server": st.sampled_from([ALICE, "@:", ""]) | _odd,
        "third_party_invite": st.fixed_dictionaries(
            {},
            optional={
                "signed": st.fixed_dictionaries({}, optional=dict.fromkeys(("mxid", "token", "signatures"), _odd))
                | _odd
            },
        )
        | _odd,
        "users": st.dictionaries(st.sampled_from([ALICE, BOB, "x"]), _odd) | _odd,
        **dict.fromkeys(("events", "notifications", "ban", "public_key", "public_keys", "join_rule", "redacts"), _odd),
        **dict.fromkeys(("creator", "additional_creators", "room_version", "m.federate", "allow"), _odd),
    },
)
_odd_types = st.sampled_from(
    [
        "m.room.member",
        "m.room.power_levels",
        "m.room.third_party_invite",
        "m.room.redaction",
        "m.room.create",
        "m.room.aliases",
        "m.room.join_rules",
    ]
)
_rooms = {name: Room(name) for name in VERSIONS}


@given(
    st.sampled_from(VERSIONS),
    st.lists(
        st.tuples(_odd_types, st.sampled_from([ALICE, BOB]), _odd_contents, st.sampled_from(["", ALICE, BOB])),
        max_size=3,
    ),
    st.tuples(_odd_types, st.sampled_from([ALICE, BOB]), _odd_contents, st.sampled_from([None, "", ALICE, BOB])),
)
@settings(max_examples=300)
def test_odd_content_raises_only_auth_rule_violations(
    name: str, odd_state: list[tuple[str, str, dict[str, Any], str]], last: tuple[str, str, dict[str, Any], str | None]
) -> None:
    """D217: a value in a content may have any type, in the event and in the room's state."""
    room = _rooms[name]
    state = dict(room.state)
    for event_type, sender, content, state_key in odd_state:
        state[event_type, state_key] = _made(room, event_type, sender, content, state_key)
    event = _made(room, *last)
    create = state["m.room.create", ""]
    _check_naming_a_rule(name, lambda: check_auth_events(room.version, event, state.values()))
    _check_naming_a_rule(name, lambda: check_auth(room.version, event, state, create))


def _made(room: Room, *odd: Any) -> Event:
    """Return the event, or another example if its form alone is wrong already ("redacts" that is not an event id)."""
    try:
        return room.make(*odd)
    except MatrixError:
        reject()


def _check_naming_a_rule(name: str, check: Callable[[], None]) -> None:
    try:
        check()
    except AuthRuleViolation as violation:
        rule = RULES[name][violation.rule.split(" ")[0]]
        assert rule.does in (Does.REJECTS, Does.DECIDES) or rule.name == "power_levels"
