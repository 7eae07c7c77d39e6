"""Check 7. Spec: server-server API, "Determining if a Policy Server is enabled in a room", "Validating Policy Server
signatures".
"""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.core.event_checks import (
    POLICY_KEY_ID,
    Outcome,
    PolicyServer,
    ReceivedEvent,
    Verdict,
    check_policy_signature,
    check_received,
    needs_policy_signature,
    policy_server_of,
)
from shared.core.events import parse_event
from shared.core.events.signatures import sign_pdu
from shared.core.identifiers import UserId
from shared.core.signing import generate_signing_key
from tests.core.event_checks.signed import KEYS
from tests.core.rooms import ALICE, BOB, CAROL, DAVE, KEY, VERSIONS, Room

POLICY_KEY = generate_signing_key(b"p" * 32, "policy_server")
ROTATED_KEY = generate_signing_key(b"q" * 32, "policy_server")
GOOD = {"via": "c.example", "public_keys": {"ed25519": POLICY_KEY.verify_key_base64}}
POLICY = PolicyServer("c.example", POLICY_KEY.verify_key_base64)


@pytest.mark.parametrize("name", VERSIONS)
def test_policy_server_needs_a_joined_user(name: str) -> None:
    room = Room(name)
    policy = room.make("m.room.policy", ALICE, GOOD, "")
    assert policy_server_of(policy, [ALICE, BOB, CAROL]) == POLICY
    assert policy_server_of(None, [ALICE, CAROL]) is None
    assert policy_server_of(policy, [ALICE, BOB]) is None  # no user of that server is joined
    odd = ["c.example", "@c.example", "", "@x:C.example", "@x:c.example:1", "@c.example:a.example"]
    assert policy_server_of(policy, map(UserId, odd)) is None
    with_port = room.make("m.room.policy", ALICE, {**GOOD, "via": "c.example:8448"}, "")
    assert policy_server_of(with_port, [CAROL]) is None
    assert policy_server_of(with_port, [UserId("@ps:c.example:8448")]) == PolicyServer(
        "c.example:8448", POLICY.public_key
    )


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": "c.example"},
        {"public_keys": GOOD["public_keys"]},
        {**GOOD, "via": None},
        {**GOOD, "via": ["c.example"]},
        {**GOOD, "via": ""},
        {**GOOD, "public_keys": POLICY.public_key},
        {**GOOD, "public_keys": {}},
        {**GOOD, "public_keys": {"ed25519": None}},
        {**GOOD, "public_keys": {"ed25519": [POLICY.public_key]}},
        {**GOOD, "public_keys": {"ed25519:policy_server": POLICY.public_key}},
        {"via": "c.example", "public_key": POLICY.public_key},
    ],
)
def test_invalid_policy_names_no_server(content: dict[str, Any]) -> None:
    policy = Room("12").make("m.room.policy", ALICE, content, "")
    assert policy_server_of(policy, [CAROL, UserId("c.example")]) is None


def test_members_are_read_only_as_far_as_needed() -> None:
    def members() -> Iterator[UserId]:
        yield from (ALICE, CAROL)
        raise AssertionError("iterated too far")

    room = Room("12")
    assert policy_server_of(room.make("m.room.policy", ALICE, GOOD, ""), members()) == POLICY
    assert policy_server_of(room.make("m.room.policy", ALICE, {}, ""), members()) is None


@pytest.mark.parametrize("name", VERSIONS)
def test_all_events_but_the_policy_need_a_signature(name: str) -> None:
    room = Room(name)
    assert not needs_policy_signature(room.make("m.room.policy", ALICE, GOOD, ""))
    for event in (
        room.make("m.room.policy", ALICE, GOOD),
        room.make("m.room.policy", ALICE, GOOD, "x"),
        room.make("m.room.member", ALICE, {"membership": "join"}, ALICE),
        room.make("m.room.power_levels", ALICE, {}, ""),
        room.make("m.room.message", ALICE, {}),
    ):
        assert needs_policy_signature(event)
        assert check_policy_signature(room.version, event, POLICY).outcome is Outcome.SOFT_FAIL


@pytest.mark.parametrize("name", VERSIONS)
def test_7_requires_a_valid_signature(name: str) -> None:
    room = Room(name)
    version, event = room.version, room.make("m.room.message", ALICE, {"body": "x"})

    def having(server: str, key: Any) -> Any:
        return parse_event(version, sign_pdu(version, event.pdu, server, key))

    accepted = Verdict(Outcome.ACCEPT, 7)
    assert check_policy_signature(version, event, None) == accepted
    assert check_policy_signature(version, room.make("m.room.policy", ALICE, {}, ""), POLICY) == accepted
    recommended = having("c.example", POLICY_KEY)
    assert check_policy_signature(version, recommended, POLICY) == accepted
    for refused in (
        event,
        having("C.example", POLICY_KEY),
        having("b.example", POLICY_KEY),
        having("c.example", ROTATED_KEY),
        having("c.example", generate_signing_key(POLICY_KEY.seed, "other")),  # the right key under another id
        having("c.example", KEY),
        parse_event(version, {**event.pdu, "signatures": {"c.example": {POLICY_KEY_ID: "%"}}}),
        parse_event(version, {**event.pdu, "signatures": {"c.example": {POLICY_KEY_ID: ""}}}),
    ):
        verdict = check_policy_signature(version, refused, POLICY)
        assert (verdict.outcome, verdict.check, verdict.rule) == (Outcome.SOFT_FAIL, 7, "")
        assert verdict.reason.startswith("policy server: ")


@pytest.mark.parametrize("key", ["", "%", "AAAA", POLICY.public_key + "A", "é", "A" * 43])
def test_7_invalid_key_verifies_nothing(key: str) -> None:
    """Any string makes the policy valid, so that the policy server is used."""
    room = Room("12")
    policy = policy_server_of(room.make("m.room.policy", ALICE, {**GOOD, "public_keys": {"ed25519": key}}, ""), [CAROL])
    assert policy == PolicyServer("c.example", key)
    event = room.make("m.room.message", ALICE, {})
    recommended = parse_event(room.version, sign_pdu(room.version, event.pdu, "c.example", POLICY_KEY))
    assert check_policy_signature(room.version, recommended, policy).outcome is Outcome.SOFT_FAIL


@pytest.mark.parametrize("name", VERSIONS)
def test_7_accepts_redacted_form_and_sender_on_the_policy_server(name: str) -> None:
    """The policy server may be the sender's. Its two keys are checked separately, by check 2 and by check 7."""
    room = Room(name)
    event = room.make("m.room.message", DAVE, {"body": "x"})
    both = sign_pdu(room.version, event.pdu, "a.example", POLICY_KEY)
    tampered = {**both, "content": {"body": "y"}}
    here = PolicyServer("a.example", POLICY_KEY.verify_key_base64)
    for raw, redacted in ((both, False), (tampered, True)):
        received = check_received(room.version, raw, keys=KEYS)
        assert isinstance(received, ReceivedEvent) and received.redacted is redacted
        assert check_policy_signature(room.version, received.event, here).passed
