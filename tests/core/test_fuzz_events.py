"""Noise against the readers of events and the checks on receipt. Only the declared results and errors may occur.

The short forms here take a few seconds together; `make soak` runs the same tests for longer.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.errors import EventFormatError
from shared.core.event_checks import (
    Keys,
    Outcome,
    ReceivedEvent,
    RejectedEvent,
    Verdict,
    VerifyKey,
    check_auth_events_of,
    check_current_state,
    check_policy_signature,
    check_received,
    check_state_before,
    policy_server_of,
    required_signatures,
)
from shared.core.events import Event, event_from_storage, parse_event
from shared.core.events.hashing import event_id_of
from shared.core.identifiers import EventId, UserId
from shared.core.room_versions import ROOM_VERSIONS, RoomVersion
from shared.core.signing import generate_signing_key, sign_json
from tests.core import json_values
from tests.core.event_checks.signed import KEYS, SERVERS, signed
from tests.core.rooms import ALICE, BOB, CAROL, DAVE, KEY, VERSIONS, Room

SHORT = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(max_examples=8000, deadline=None, suppress_health_check=list(HealthCheck))

THIRD_PARTY_KEY = generate_signing_key(b"3" * 32, "0")
SIGNED = sign_json({"mxid": CAROL, "token": "token"}, "id.example", THIRD_PARTY_KEY)


# --- mutated input: a room with an event of every kind that the rules read -------------------------------------


def _everything(name: str) -> Room:
    room = Room(name)
    room.power_levels(events={"m.room.topic": 0})
    room.join_rule("restricted" if room.version.restricted else "public")
    room.member(BOB, "join")
    room.force("m.room.third_party_invite", ALICE, {"public_key": THIRD_PARTY_KEY.verify_key_base64}, "token")
    room.force("m.room.member", ALICE, {"membership": "invite", "third_party_invite": {"signed": SIGNED}}, CAROL)
    room.force("m.room.member", DAVE, {"membership": "join", "join_authorised_via_users_server": BOB}, DAVE)
    room.force("m.room.aliases", BOB, {"aliases": ["#x:b.example"]}, "b.example")
    room.force("m.room.policy", ALICE, {"via": "b.example", "public_keys": {"ed25519": KEY.verify_key_base64}}, "")
    room.force("m.room.redaction", BOB, {"reason": "x"}, redacts=room.events[-1].event_id)
    room.force("m.room.message", BOB, {"body": "hello"})
    return room


ROOMS = {name: _everything(name) for name in VERSIONS}

#: Values that parsers tend to mistake for something else.
odd_texts = st.sampled_from(
    [
        "",
        "@",
        ":",
        "@:",
        "@a:",
        "!",
        "$",
        "@alice:a.example",
        ALICE,
        BOB,
        CAROL,
        DAVE,
        "a.example",
        "A.example",
        "join",
        "invite",
        "leave",
        "ban",
        "knock",
        "public",
        "restricted",
        "knock_restricted",
        "private",
        "token",
        "1",
        "11",
        "12",
        "100",
        " +100 ",
        "-1",
        "1_0",
        "0x1",
        "١",
        "1e3",
        "inf",
        "nan",
        "9" * 300,
        "9" * 5000,
        "%",
        "\x00",
        "\u2028",
        "\U0001f600",
        "é" * 130,
        "x" * 300,
        "ed25519:t",
        "ed25519:",
        "sha256",
        "A" * 43,
        "AAAA",
        KEY.verify_key_base64,
        "====",
    ]
)
odd_numbers = st.sampled_from([0, 1, -1, 50, 100, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, 2**63, 2**64, 10**400])
odd_floats = st.sampled_from([0.0, -0.0, 0.5, 1e15, 1e16, 1e22, 1e300, -1e-7, 5e-324])
_leaves = st.none() | st.booleans() | odd_numbers | odd_floats | odd_texts | json_values.texts

KEYS_OF_CONTENT = [
    "membership",
    "third_party_invite",
    "signed",
    "mxid",
    "token",
    "signatures",
    "join_authorised_via_users_server",
    "join_rule",
    "allow",
    "type",
    "room_id",
    "users",
    "events",
    "notifications",
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "kick",
    "redact",
    "invite",
    "creator",
    "additional_creators",
    "room_version",
    "m.federate",
    "public_key",
    "public_keys",
    "ed25519",
    "via",
    "aliases",
    "redacts",
    "room",
    "id.example",
    "ed25519:0",
    "m.room.topic",
    ALICE,
    BOB,
    CAROL,
    "",
]

odd_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS_OF_CONTENT), inner, max_size=4),
    max_leaves=10,
)
odd_contents = st.dictionaries(st.sampled_from(KEYS_OF_CONTENT), odd_values, max_size=4)


@st.composite
def changed_values(draw: st.DrawFn, value: Any) -> Any:
    """The value with one entry in it replaced, removed or added."""
    if isinstance(value, Mapping) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 5)) == 0:
            return {other: entry for other, entry in value.items() if other != key}
        return {**value, key: draw(changed_values(value[key]))}
    if isinstance(value, Mapping) and draw(st.booleans()):
        return {**value, draw(st.sampled_from(KEYS_OF_CONTENT)): draw(odd_values)}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed_values(value[place])), *value[place + 1 :]]
    return draw(odd_values)


@st.composite
def changed_events(draw: st.DrawFn, name: str, event: Event) -> Event:
    """The event with another content, if the room's version accepts one, else the event itself."""
    content = draw(odd_contents | changed_values(event.content))
    try:
        return parse_event(ROOM_VERSIONS[name], {**event.pdu, "content": content}, event_id=event.event_id)
    except EventFormatError:
        return event


# --- raw bytes -------------------------------------------------------------------------------------------------

_A_VALUE = re.compile(rb'(?<=[:\[,])(?:"[^"]*"|-?[0-9]+|\{\}|\[\])')
_ODD_JSON = [
    b"1e999",
    b"-1e999",
    b"-0",
    b"0.0",
    b"1E400",
    b"NaN",
    b"Infinity",
    b"01",
    b"9" * 5000,
    b"9" * 4000,
    b"0." + b"9" * 400,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u0000"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b'""',
    b"[" * 2000,
    b"[" * 90 + b"]" * 90,
    b"[" * 150 + b"]" * 150,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"a":1,"a":2}',
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'"' + b"x" * 70000 + b'"',
    b"",
]


@st.composite
def raw_events(draw: st.DrawFn, name: str) -> bytes:
    """The bytes of a valid event with some of them changed, or with a value replaced by odd JSON, or plain noise."""
    raw = draw(st.sampled_from(ROOMS[name].events)).encoded
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=60) | st.just(b"\xef\xbb\xbf" + raw) | st.just(raw.decode().encode("utf-16")))
    if kind == 1:
        values = list(_A_VALUE.finditer(raw))
        found = draw(st.sampled_from(values))
        return raw[: found.start()] + draw(st.sampled_from(_ODD_JSON)) + raw[found.end() :]
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + length :]
    return raw


@pytest.mark.parametrize("name", VERSIONS)
def test_odd_json_in_every_place_is_refused_or_consistent(name: str) -> None:
    """Each odd value at each place of two events, without randomness. Whatever passes must be consistent."""
    version = ROOM_VERSIONS[name]
    passed = 0
    for original in (ROOMS[name].events[5], ROOMS[name].events[-1]):
        raw = original.encoded
        for place in _A_VALUE.finditer(raw):
            for odd in _ODD_JSON:
                with suppress(EventFormatError):
                    _is_consistent(version, parse_event(version, raw[: place.start()] + odd + raw[place.end() :]))
                    passed += 1
    assert passed > 20  # some fields may hold many values


def _parse_of_raw(data: st.DataObject) -> None:
    version = ROOM_VERSIONS[data.draw(st.sampled_from(VERSIONS))]
    raw = data.draw(raw_events(version.name))
    try:
        event = parse_event(version, raw)
    except EventFormatError:
        return
    _is_consistent(version, event)


def _parse_of_pdu(data: st.DataObject) -> None:
    version = ROOM_VERSIONS[data.draw(st.sampled_from(VERSIONS))]
    pdu = data.draw(changed_values(dict(data.draw(st.sampled_from(ROOMS[version.name].events)).pdu)))
    try:
        event = parse_event(version, pdu)
    except EventFormatError:
        return
    _is_consistent(version, event)


def _is_consistent(version: RoomVersion, event: Event) -> None:
    """Check that an accepted event is the same after a trip over the wire, and after one through the database."""
    assert len(event.encoded) <= 65536
    again = parse_event(version, event.encoded)
    assert again == event and again.pdu == event.pdu
    stored = event_from_storage(version, event.encoded, event.event_id)
    assert stored.pdu == event.pdu and stored.room_id == event.room_id
    assert event_id_of(version, event.pdu) == event.event_id
    repr(event)


# --- checks 1 to 3 ---------------------------------------------------------------------------------------------

some_keys = st.dictionaries(
    st.tuples(st.sampled_from([*SERVERS, ""]), st.sampled_from([KEY.key_id, "ed25519:", "ed25519:policy_server"])),
    st.builds(
        VerifyKey,
        st.sampled_from([KEY.verify_key, b"", b"x" * 32, KEY.verify_key[1:]]),
        st.none() | st.sampled_from([0, -(2**63), 2**63]),
        st.none() | st.sampled_from([0, 2**63]),
    ),
    max_size=4,
)


def _receive(data: st.DataObject) -> None:
    version = ROOM_VERSIONS[data.draw(st.sampled_from(VERSIONS))]
    original = data.draw(st.sampled_from(ROOMS[version.name].events))
    raw = data.draw(raw_events(version.name) | changed_values(dict(original.pdu)) | _signed_again(version, original))
    keys: Keys = {**KEYS, **data.draw(some_keys)}
    result = check_received(version, raw, keys=keys, room_id=data.draw(st.none() | st.just(original.room_id)))
    if isinstance(result, Verdict):
        assert result.outcome is Outcome.DROP and result.check in (1, 2) and len(result.reason) <= 200
        return
    event = result.event if isinstance(result, ReceivedEvent) else result.rejected
    _is_consistent(version, event)
    if isinstance(result, RejectedEvent):
        assert result.verdict.outcome is Outcome.REJECT and version.restricted
    again = check_received(version, event, keys=keys)
    # A redacted copy passes like the whole event, and stays the same.
    assert type(again) is type(result)
    assert (again.event if isinstance(again, ReceivedEvent) else again.rejected) == event
    for needed in required_signatures(version, event):
        usable = [keys[needed.server, key_id] for key_id in needed.key_ids if (needed.server, key_id) in keys]
        assert isinstance(result, RejectedEvent) or any(key.key == KEY.verify_key for key in usable)


@st.composite
def _signed_again(draw: st.DrawFn, version: RoomVersion, event: Event) -> Any:
    """The event changed by servers that may sign it, so that it passes the signature checks."""
    pdu = draw(changed_values(dict(event.pdu)))
    if not isinstance(pdu, dict):
        return pdu
    servers = draw(st.lists(st.sampled_from(SERVERS), min_size=1, unique=True))
    try:
        return signed(version, pdu, dict.fromkeys(servers, KEY), hashed=draw(st.booleans()))
    except EventFormatError:
        return pdu


# --- checks 4 to 7 ---------------------------------------------------------------------------------------------

state_keys = st.none() | st.sampled_from(["", ALICE, BOB, CAROL, DAVE, "token", "b.example", "@"])


@st.composite
def checked_events(draw: st.DrawFn, name: str) -> Event:
    """One of the room's events, or a new one of any type, with odd content, by any sender, about any target."""
    room = ROOMS[name]
    event = draw(st.sampled_from(room.events))
    if draw(st.booleans()):
        event = draw(changed_events(name, event))
    if draw(st.booleans()):
        fields: dict[str, Any] = {"sender": draw(st.sampled_from([ALICE, BOB, CAROL, DAVE]))}
        state_key = draw(state_keys)
        if draw(st.booleans()):
            fields["type"] = draw(st.sampled_from(sorted({known.type for known in room.events})))
        if draw(st.booleans()):
            fields["prev_events"] = draw(st.sampled_from([known.pdu["prev_events"] for known in room.events]))
        pdu = {key: value for key, value in event.pdu.items() if key != "state_key"} | fields
        if state_key is not None:
            pdu["state_key"] = state_key
        with suppress(EventFormatError):
            event = parse_event(room.version, pdu)
    return event


def _check(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(VERSIONS))
    room, version = ROOMS[name], ROOM_VERSIONS[name]
    event = data.draw(checked_events(name))
    create = data.draw(st.just(room.create) | changed_events(name, room.create))
    state = {("m.room.create", ""): create, **room.state}
    for key in data.draw(st.lists(st.sampled_from(sorted(room.state)), max_size=4, unique=True)):
        if data.draw(st.integers(0, 3)):
            state[key] = data.draw(changed_events(name, room.state[key]))
        else:
            del state[key]
    before = check_state_before(version, event, state, create)
    current = check_current_state(version, event, state, create)
    assert before.outcome in (Outcome.ACCEPT, Outcome.REJECT) and current.outcome in (Outcome.ACCEPT, Outcome.SOFT_FAIL)
    assert (before.passed, before.rule, before.reason) == (current.passed, current.rule, current.reason)
    assert before.passed is (before.rule == "") and len(before.reason) <= 200
    assert check_state_before(version, event, _with_stubs(state), create) == before
    _check_auth_events(data, room, event, create, state)
    policy = policy_server_of(state.get(("m.room.policy", "")), [ALICE, BOB, UserId(""), UserId("creator")])
    seventh = check_policy_signature(version, event, policy)
    assert seventh.outcome in (Outcome.ACCEPT, Outcome.SOFT_FAIL) and (policy is not None or seventh.passed)


def _check_auth_events(
    data: st.DataObject, room: Room, event: Event, create: Event, state: Mapping[tuple[str, str], Event]
) -> None:
    known = [*room.events, *state.values(), create]
    if data.draw(st.booleans()):
        known = data.draw(st.lists(st.sampled_from(known), max_size=8))
    rejected = data.draw(st.sets(st.sampled_from([other.event_id for other in room.events]), max_size=1))
    verdict = check_auth_events_of(room.version, event, known, rejected=rejected, create=create)
    assert verdict.outcome in (Outcome.ACCEPT, Outcome.REJECT, Outcome.DROP) and verdict.check == 4
    if not verdict.passed or event.type == "m.room.create":
        return
    # An accepted event is allowed by the state formed by the events that it names, and names no rejected one.
    by_id = {other.event_id: other for other in known}
    cited = [by_id[EventId(event_id)] for event_id in event.auth_event_ids]
    named = {(other.type, other.state_key or ""): other for other in cited}
    assert check_state_before(room.version, event, named, create).passed
    assert not rejected & set(event.auth_event_ids)


def _with_stubs(state: Mapping[tuple[str, str], Event]) -> dict[tuple[str, str], Event]:
    """The state as a room in memory provides it: of memberships only `content.membership`."""
    return {
        key: replace(
            event,
            content={name: value for name, value in event.content.items() if name == "membership"},
            pdu={},
            encoded=b"",
            prev_event_ids=(),
            auth_event_ids=(),
        )
        if key[0] == "m.room.member"
        else event
        for key, event in state.items()
    }


BODIES: list[Callable[[st.DataObject], None]] = [_parse_of_raw, _parse_of_pdu, _receive, _check]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__.strip("_"))
def test_noise_raises_only_declared_errors(body: Callable[[st.DataObject], None]) -> None:
    SHORT(given(st.data())(body))()


@pytest.mark.soak
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__.strip("_"))
def test_much_noise_raises_only_declared_errors(body: Callable[[st.DataObject], None]) -> None:
    LONG(given(st.data())(body))()
