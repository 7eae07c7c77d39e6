"""Checks 1 to 3. Spec: server-server API, "Checks performed on receipt of a PDU" (1 to 3), "Validating hashes and
signatures on received events"; rooms/v5, "Signing key validity period"; rooms/v8, rule 4.2.1.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.canonical_json import decode_unpadded, encode_unpadded
from shared.core.event_checks import (
    POLICY_KEY_ID,
    Outcome,
    ReceivedEvent,
    RejectedEvent,
    Verdict,
    VerifyKey,
    capped_validity,
    check_received,
    required_signatures,
)
from shared.core.events import Event, parse_event, redact_pdu
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.signing import generate_signing_key
from tests.core import json_values
from tests.core.event_checks.signed import KEYS, LATER_MS, changed, signed
from tests.core.rooms import ALICE, BOB, CAROL, KEY, VERSIONS, Room, versions_where

OTHER_KEY = generate_signing_key(b"o" * 32, "other")
BOTH_KEYS = {**KEYS, ("a.example", OTHER_KEY.key_id): VerifyKey(OTHER_KEY.verify_key, valid_until_ts=LATER_MS)}


def dropped(check: int, version: RoomVersion, raw: Any, keys: Any = KEYS, room_id: RoomId | None = None) -> str:
    """Assert that this check drops the event, and return the reason."""
    verdict = check_received(version, raw, keys=keys, room_id=room_id)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.check, verdict.rule) == (Outcome.DROP, check, "")
    return verdict.reason


def passed(version: RoomVersion, raw: Any, keys: Any = KEYS) -> Event:
    received = check_received(version, raw, keys=keys)
    assert isinstance(received, ReceivedEvent) and not received.redacted
    return received.event


def redacted(version: RoomVersion, raw: Any, keys: Any = KEYS) -> Event:
    received = check_received(version, raw, keys=keys)
    assert isinstance(received, ReceivedEvent) and received.redacted
    return received.event


def message(name: str, content: dict[str, Any] | None = None) -> tuple[RoomVersion, Event]:
    room = Room(name)
    return room.version, room.make("m.room.message", ALICE, content or {"body": "hello"})


# --- check 1: the format -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_1_drops_malformed_events(name: str) -> None:
    version, event = message(name)
    assert passed(version, event.encoded) == passed(version, event.pdu) == passed(version, event) == event
    assert dropped(1, version, b"{") and dropped(1, version, b"[]") and dropped(1, version, b"")
    assert dropped(1, version, {**event.pdu, "depth": -1}).startswith("depth")
    assert dropped(1, version, {**event.pdu, "content": {"body": "x" * 65536}}).startswith("event")
    assert "another room" in dropped(1, version, event.encoded, room_id=RoomId("!other:a.example"))
    assert isinstance(check_received(version, event, keys=KEYS, room_id=event.room_id), ReceivedEvent)


@pytest.mark.parametrize("name", VERSIONS)
def test_1_limits_auth_events_and_prev_events(name: str) -> None:
    version, event = message(name)
    entry: Any = ["$x:a.example", {"sha256": ""}] if version.references_with_hashes else "$x:a.example"
    for field, limit in (("auth_events", 10), ("prev_events", 20)):
        most: dict[str, Any] = {field: [entry] * limit}
        assert passed(version, changed(version, event, **most))
        assert dropped(1, version, {**event.pdu, field: [entry] * (limit + 1)}).startswith(field)


# --- check 2: signatures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_2_the_senders_server_must_have_signed(name: str) -> None:
    version, event = message(name)
    assert "a.example has not validly signed" in dropped(2, version, {**event.pdu, "signatures": {}})
    by_other = signed(version, event.pdu, {"b.example": KEY})
    assert dropped(2, version, by_other)
    assert "no known" in dropped(2, version, event, keys={})
    # Server names are case-sensitive.
    assert dropped(2, version, signed(version, event.pdu, {"A.example": KEY}))
    assert dropped(2, version, event, keys={("A.EXAMPLE", KEY.key_id): KEYS["a.example", KEY.key_id]})


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize(
    "signature", ["", "%", "AA", "é", "\x00", "A" * 86, "A" * 88, "A" * 5000, "=" * 100], ids=lambda text: text[:4]
)
def test_2_drops_malformed_signatures(name: str, signature: str) -> None:
    version, event = message(name)
    assert dropped(2, version, {**event.pdu, "signatures": {"a.example": {KEY.key_id: signature}}})


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("key", [b"", b"x", KEY.verify_key[:31], KEY.verify_key + b"x", b"\x00" * 32, b"\xff" * 32])
def test_2_invalid_keys_verify_nothing(name: str, key: bytes) -> None:
    version, event = message(name)
    keys = {("a.example", KEY.key_id): VerifyKey(key, valid_until_ts=LATER_MS)}
    assert "not validly" in dropped(2, version, event, keys=keys)


@pytest.mark.parametrize("name", VERSIONS)
def test_2_all_known_signatures_of_a_server_must_verify(name: str) -> None:
    """All signatures by known keys must verify, and there must be one. Those by unknown keys do not count."""
    version, event = message(name)
    twice = signed(version, event.pdu, {"a.example": KEY})
    right = twice["signatures"]["a.example"][KEY.key_id]
    second = signed(version, event.pdu, {"a.example": OTHER_KEY})["signatures"]["a.example"][OTHER_KEY.key_id]

    def having(**signatures: str) -> dict[str, Any]:
        return {**event.pdu, "signatures": {"a.example": {f"ed25519:{key}": sig for key, sig in signatures.items()}}}

    passed(version, having(t=right, other=second), keys=BOTH_KEYS)
    passed(version, having(t=right, other=second))  # the other key is unknown
    passed(version, having(t=right, other=right))  # so it is not verified
    dropped(2, version, having(t=right, other=right), keys=BOTH_KEYS)
    dropped(2, version, having(other=second))
    dropped(2, version, having(t=second))
    odd_algorithm = {**event.pdu, "signatures": {"a.example": {KEY.key_id: right, "rsa:t": "x", "ed25519": "x"}}}
    passed(version, odd_algorithm)


@pytest.mark.parametrize("name", VERSIONS)
def test_2_the_policy_key_is_skipped(name: str) -> None:
    """Even where a server publishes a key of that name. Spec: "... and therefore should be skipped at this stage"."""
    version, event = message(name)
    policy_key = generate_signing_key(b"p" * 32, "policy_server")
    keys = {**KEYS, ("a.example", POLICY_KEY_ID): VerifyKey(policy_key.verify_key, valid_until_ts=LATER_MS)}
    assert dropped(2, version, signed(version, event.pdu, {"a.example": policy_key}), keys=keys)
    wrong = {**event.pdu["signatures"]["a.example"], POLICY_KEY_ID: "AAAA"}
    both = parse_event(version, {**event.pdu, "signatures": {"a.example": wrong}})
    passed(version, both, keys=keys)
    assert required_signatures(version, both)[0].key_ids == {KEY.key_id}


@pytest.mark.parametrize("name", VERSIONS)
def test_2_server_of_the_event_id_must_have_signed(name: str) -> None:
    """In room versions 1 and 2 only."""
    room = Room(name)
    event = room.make("m.room.message", BOB, {})
    if not room.version.event_id_server_signs:
        assert [needed.server for needed in required_signatures(room.version, event)] == ["b.example"]
        return
    elsewhere = {**event.pdu, "event_id": "$e:c.example"}
    needed = required_signatures(room.version, parse_event(room.version, elsewhere))
    assert [(one.server, len(one.key_ids)) for one in needed] == [("b.example", 1), ("c.example", 0)]
    assert "c.example" in dropped(2, room.version, signed(room.version, elsewhere, {"b.example": KEY}))
    assert "b.example" in dropped(2, room.version, signed(room.version, elsewhere, {"c.example": KEY}))
    passed(room.version, signed(room.version, elsewhere, {"b.example": KEY, "c.example": KEY}))
    no_server = parse_event(room.version, signed(room.version, {**event.pdu, "event_id": "$e:?"}, {"b.example": KEY}))
    assert [one.server for one in required_signatures(room.version, no_server)] == ["b.example"]
    dropped(2, room.version, no_server)


@pytest.mark.parametrize("name", VERSIONS)
def test_2_key_validity_by_version(name: str) -> None:
    """Spec: rooms/v5. At the limit itself the key is valid."""
    version, event = message(name)
    at = event.origin_server_ts
    enforced = version.key_validity_enforced
    assert enforced is (name not in ("1", "2", "3", "4"))
    assert [one.valid_at_ts for one in required_signatures(version, event)] == [at if enforced else None]
    for key, good in (
        (VerifyKey(KEY.verify_key, valid_until_ts=at), True),
        (VerifyKey(KEY.verify_key, valid_until_ts=at - 1), False),
        (VerifyKey(KEY.verify_key, expired_ts=at), True),
        (VerifyKey(KEY.verify_key, expired_ts=at - 1), False),
        (VerifyKey(KEY.verify_key, valid_until_ts=at, expired_ts=at - 1), False),
        (VerifyKey(KEY.verify_key), False),
    ):
        keys = {("a.example", KEY.key_id): key}
        if good or not enforced:
            passed(version, event, keys=keys)
        else:
            assert "no known and valid key" in dropped(2, version, event, keys=keys)


@pytest.mark.parametrize("name", versions_where(key_validity_enforced=True))
def test_2_a_signature_by_an_expired_key_does_not_count(name: str) -> None:
    version, event = message(name)
    wrong = {KEY.key_id: event.pdu["signatures"]["a.example"][KEY.key_id], OTHER_KEY.key_id: "AAAA"}
    pdu = {**event.pdu, "signatures": {"a.example": wrong}}
    expired = VerifyKey(OTHER_KEY.verify_key, expired_ts=event.origin_server_ts - 1)
    passed(version, pdu, keys={**KEYS, ("a.example", OTHER_KEY.key_id): expired})
    dropped(2, version, pdu, keys=BOTH_KEYS)


def test_key_validity_is_capped_at_seven_days() -> None:
    """Spec: rooms/v5, "Servers MUST use the lesser of `valid_until_ts` and 7 days into the future"."""
    week = 7 * 24 * 3600 * 1000
    assert capped_validity(10**15, 5) == week + 5
    assert capped_validity(week + 4, 5) == week + 4
    assert capped_validity(-1, 5) == -1


# --- check 2 and third-party invites -------------------------------------------------------------------------


def _third_party_invite(room: Room, third_party: Any) -> dict[str, Any]:
    return dict(room.make("m.room.member", ALICE, {"membership": "invite", "third_party_invite": third_party}, BOB).pdu)


@pytest.mark.parametrize("name", VERSIONS)
def test_2_a_third_party_invite_may_be_sent_by_another_server(name: str) -> None:
    room = Room(name)
    pdu = _third_party_invite(room, {"signed": {"mxid": BOB, "token": "t", "signatures": {}}})
    passed(
        room.version, signed(room.version, pdu, {"b.example": KEY} if name not in ("1", "2") else {"a.example": KEY})
    )
    if room.version.event_id_server_signs:
        assert "a.example" in dropped(2, room.version, signed(room.version, pdu, {"b.example": KEY}))
    else:
        passed(room.version, signed(room.version, pdu, {}))
    plain = dict(room.make("m.room.member", ALICE, {"membership": "invite"}, BOB).pdu)
    dropped(2, room.version, signed(room.version, plain, {"b.example": KEY}))


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("third_party", [{}, 5, None, {"signed": {"mxid": BOB, "token": "t", "signatures": {}}}])
def test_2_wrong_hash_allows_no_invite_in_another_users_name(name: str, third_party: Any) -> None:
    """The redacted form counts. Without `third_party_invite` it is an invite by the sender, whose server must sign."""
    room = Room(name)
    event_id = {"event_id": "$e:b.example"} if room.version.event_id_server_signs else {}
    pdu = {**_third_party_invite(room, third_party), **event_id, "hashes": {"sha256": "AAAA"}}
    forged = signed(room.version, pdu, {"b.example": KEY}, hashed=False)
    needed = [one.server for one in required_signatures(room.version, parse_event(room.version, forged))]
    received = check_received(room.version, forged, keys=KEYS)
    if isinstance(received, Verdict):
        assert "a.example" in needed
        assert (received.outcome, received.check) == (Outcome.DROP, 2)
    else:  # version 11 on: the object signed by the third party stays, and the rules require it
        assert isinstance(received, ReceivedEvent) and received.redacted
        assert received.event.content == {"membership": "invite", "third_party_invite": third_party}
        assert room.version.redaction.third_party_signed and third_party


# --- check 2 and restricted joins ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_2_restricted_join_needs_the_authorising_server(name: str) -> None:
    room = Room(name)
    event = room.make("m.room.member", BOB, {"membership": "join", "join_authorised_via_users_server": ALICE}, BOB)
    version, restricted = room.version, room.version.restricted
    servers = [needed.server for needed in required_signatures(version, event)]
    assert servers == (["a.example", "b.example"] if restricted else ["b.example"])
    passed(version, signed(version, event.pdu, {"b.example": KEY, "a.example": KEY}))
    for signers, keys in (
        ({"b.example": KEY}, KEYS),
        (
            {"b.example": KEY, "a.example": OTHER_KEY},
            {**KEYS, ("a.example", OTHER_KEY.key_id): KEYS["a.example", KEY.key_id]},
        ),
    ):
        received = check_received(version, signed(version, event.pdu, signers), keys=keys)
        if not restricted:
            assert isinstance(received, ReceivedEvent)
            continue
        assert isinstance(received, RejectedEvent) and received.rejected.content == event.content
        assert (received.verdict.outcome, received.verdict.check) == (Outcome.REJECT, 4)
        assert received.verdict.rule == f"{5 if name == '12' else 4}.2.1 member/authorised"
    unknown = signed(version, event.pdu, {"b.example": KEY, "a.example": OTHER_KEY})
    if restricted:
        assert "a.example" in dropped(2, version, unknown)  # it cannot be known
    else:
        passed(version, unknown)
    dropped(2, version, signed(version, event.pdu, {"a.example": KEY}))


# --- check 3: the content hash -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("hashes", [{}, {"sha256": ""}, {"sha256": "%"}, {"sha256": 5}, {"sha256": "é"}, {"md5": "x"}])
def test_3_wrong_hash_redacts(name: str, hashes: Any) -> None:
    version, event = message(name)
    kept = redacted(version, signed(version, {**event.pdu, "hashes": hashes}, {"a.example": KEY}, hashed=False))
    assert kept.content == {} and kept.sender == ALICE


@pytest.mark.parametrize("name", VERSIONS)
def test_3_redacted_form_is_kept(name: str) -> None:
    room = Room(name)
    event = room.make("m.room.member", ALICE, {"membership": "join", "displayname": "Alice"}, ALICE)
    tampered = {**event.pdu, "content": {"membership": "join", "displayname": "Mallory"}, "unsigned": {"age": 1}}
    kept = redacted(room.version, tampered)
    assert kept.content == {"membership": "join"}  # it can still change the room's state
    assert kept.event_id == event.event_id and kept.pdu == redact_pdu(room.version, event.pdu)
    assert redacted(room.version, redact_pdu(room.version, event.pdu)) == kept  # as if it had been sent redacted
    # What the signature covers cannot be changed: that is check 2.
    dropped(2, room.version, {**event.pdu, "content": {"membership": "leave"}})


# --- properties ----------------------------------------------------------------------------------------------

_rooms = {name: Room(name) for name in VERSIONS}


@given(st.sampled_from(VERSIONS), json_values.strict_objects, st.sampled_from([ALICE, BOB, CAROL]), st.booleans())
def test_built_events_pass_checks_1_to_3(name: str, content: dict[str, Any], sender: UserId, state: bool) -> None:
    room = _rooms[name]
    event = room.make("com.example.any", sender, content, "" if state else None)
    servers = [needed.server for needed in required_signatures(room.version, event)]
    assert servers == [sender.partition(":")[2]]
    keys = {(server, KEY.key_id): KEYS[server, KEY.key_id] for server in servers}
    assert passed(room.version, event.encoded, keys=keys) == event


@given(st.sampled_from(VERSIONS), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_bit_of_the_body_redacts(name: str, place: int, flip: int) -> None:
    room = _rooms[name]
    body = "abcdefghij" * 3
    event = room.make("m.room.message", ALICE, {"body": body})
    at = place % len(body)
    other = body[:at] + chr(ord(body[at]) ^ flip) + body[at + 1 :]
    raw = json.dumps({**event.pdu, "content": {"body": other}}).encode()
    assert redacted(room.version, raw).content == {}


@given(st.sampled_from(VERSIONS), st.integers(0, 511))
def test_a_flipped_bit_of_the_signature_drops(name: str, bit: int) -> None:
    room = _rooms[name]
    version, event = room.version, room.events[-1]
    raw = bytearray(decode_unpadded(event.pdu["signatures"]["a.example"][KEY.key_id]))
    raw[bit // 8] ^= 1 << bit % 8
    dropped(2, version, {**event.pdu, "signatures": {"a.example": {KEY.key_id: encode_unpadded(bytes(raw))}}})


@given(
    st.sampled_from(VERSIONS), st.sampled_from(["sender", "type", "depth", "origin_server_ts", "prev_events", "hashes"])
)
def test_signature_covers_the_redacted_form(name: str, field: str) -> None:
    room = _rooms[name]
    event = room.make("m.room.message", ALICE, {})
    changes = {
        "sender": "@mallory:a.example",
        "type": "m.x",
        "depth": event.depth + 1,
        "prev_events": [],
        "origin_server_ts": event.origin_server_ts + 1,
        "hashes": {"sha256": "AAAA"},
    }
    dropped(2, room.version, {**event.pdu, field: changes[field]})
