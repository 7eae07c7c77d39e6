"""Format, hashes, ids, redaction and building. Spec: rooms/, "Event format"; server-server API, "Signing Events"."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.canonical_json import decode_unpadded, encode_canonical, encode_unpadded
from shared.core.errors import EventFormatError, MatrixError, SignatureError
from shared.core.events import Event, build_event, event_from_storage, parse_event, redact_pdu
from shared.core.events.hashing import (
    content_hash,
    event_id_of,
    has_right_content_hash,
    reference_hash,
    room_id_of_create,
)
from shared.core.events.signatures import authorising_server, required_signers, sign_pdu, verify_pdu
from shared.core.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS, get_room_version
from shared.core.signing import generate_signing_key
from tests.core import json_values
from tests.core.rooms import ALICE, BOB, KEY, VERSIONS, Room, versions_where
from tests.core.spec_vectors import VECTORS

_SPEC_KEY = generate_signing_key(decode_unpadded(VECTORS["signing_key"]["seed_base64"]), "1")
_HASH_ROOM = "!" + "R" * 43


def _room_id_of(version_name: str) -> str:
    return _HASH_ROOM if ROOM_VERSIONS[version_name].room_id_is_create_hash else "!r:a.example"


def _build(version_name: str, content: dict[str, Any] | None = None, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "room_id": _room_id_of(version_name),
        "sender": ALICE,
        "type": "m.room.message",
        "state_key": None,
        "content": {"body": "hi"} if content is None else content,
        "prev_event_ids": ["$p:a.example"],
        "auth_event_ids": ["$a:a.example", "$b:a.example"],
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
        "signing_key": KEY,
        "server_name": "a.example",
        "event_id_localpart": "e",
        "reference_hashes": dict.fromkeys(("$p:a.example", "$a:a.example", "$b:a.example"), b"h" * 32),
    }
    return build_event(ROOM_VERSIONS[version_name], **{**fields, **changes})


# --- the spec's own examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version_name", "case"),
    [("5", case) for case in VECTORS["event_signing"]["cases"]]
    + [("11", case) for case in VECTORS["event_signing_v11"]["cases"]],
)
def test_event_signatures_of_the_spec(version_name: str, case: dict[str, Any]) -> None:
    version = ROOM_VERSIONS[version_name]
    hashed = case["in"] | {"hashes": {"sha256": encode_unpadded(content_hash(case["in"]))}}
    signed = sign_pdu(version, hashed, "domain", _SPEC_KEY)
    assert signed == case["out"]
    assert has_right_content_hash(signed)
    verify_pdu(version, signed, "domain", "ed25519:1", _SPEC_KEY.verify_key)
    verify_pdu(version, redact_pdu(version, signed), "domain", "ed25519:1", _SPEC_KEY.verify_key)
    with pytest.raises(SignatureError):
        verify_pdu(version, signed | {"sender": "@b:domain"}, "domain", "ed25519:1", _SPEC_KEY.verify_key)


@pytest.mark.parametrize("case", VECTORS["reference_hash_event_id"]["cases"], ids=lambda case: case["name"])
def test_event_ids_of_the_spec(case: dict[str, Any]) -> None:
    digest = content_hash(case["in"])
    assert encode_unpadded(digest) == case["content_hash"]
    pdu = case["in"] | {"hashes": {"sha256": encode_unpadded(digest)}}
    for version_name, event_id in case["event_id"].items():
        assert event_id_of(ROOM_VERSIONS[version_name], pdu) == event_id


def test_room_id_of_version_12() -> None:
    case = VECTORS["room_id_v12"]
    version = ROOM_VERSIONS["12"]
    event = parse_event(version, case["create_event_signed"])
    assert (event.event_id, event.room_id) == (case["event_id"], case["room_id"])
    assert room_id_of_create(version, case["create_event_signed"]) == case["room_id"]
    verify_pdu(version, event.pdu, "domain", "ed25519:1", _SPEC_KEY.verify_key)


@pytest.mark.parametrize("case", VECTORS["redaction_algorithm"]["cases"], ids=lambda case: case["in"]["type"])
def test_redaction_of_the_spec(case: dict[str, Any]) -> None:
    for version_name in VERSIONS:
        shown = max((n for n in case["out"] if int(n) <= int(version_name)), key=int)
        assert redact_pdu(ROOM_VERSIONS[version_name], case["in"]) == case["out"][shown], version_name


# --- properties ----------------------------------------------------------------------------------------------

_types = st.sampled_from(
    [
        "m.room.member",
        "m.room.create",
        "m.room.join_rules",
        "m.room.power_levels",
        "m.room.aliases",
        "m.room.redaction",
        "m.room.history_visibility",
        "m.room.message",
    ]
)
_contents = json_values.strict_objects | st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("membership", "creator", "allow", "join_rule", "users", "invite", "aliases", "redacts"),
        json_values.strict_values,
    )
    | {"third_party_invite": st.dictionaries(st.sampled_from(["signed", "display_name"]), json_values.strict_values)},
)


@given(st.sampled_from(VERSIONS), _types, _contents)
def test_redaction_is_idempotent_and_keeps_the_id(version_name: str, event_type: str, content: dict[str, Any]) -> None:
    version = ROOM_VERSIONS[version_name]
    event = _build(version_name, content, type=event_type, state_key="x")
    redacted = redact_pdu(version, event.pdu)
    assert redact_pdu(version, redacted) == redacted
    assert event_id_of(version, redacted) == event.event_id
    verify_pdu(version, redacted, "a.example", KEY.key_id, KEY.verify_key)


@given(st.sampled_from(VERSIONS), json_values.strict_objects, st.none() | st.just("") | json_values.texts)
def test_built_event_parses_to_itself(version_name: str, content: dict[str, Any], state_key: str | None) -> None:
    version = ROOM_VERSIONS[version_name]
    event = _build(version_name, content, state_key=state_key)
    for again in (
        parse_event(version, event.encoded),
        parse_event(version, json.loads(event.encoded)),
        parse_event(version, json.dumps(event.pdu, indent=2).encode()),
        event_from_storage(version, event.encoded, event.event_id),
    ):
        assert again == event
        assert (again.content, again.state_key, again.is_state) == (content, state_key, state_key is not None)
        assert again.prev_event_ids == ("$p:a.example",)
        assert again.auth_event_ids == ("$a:a.example", "$b:a.example")
    assert has_right_content_hash(event.pdu)
    assert event.encoded == encode_canonical(event.pdu)


_valid_pdu = _build("11").pdu


@given(
    st.sampled_from(VERSIONS),
    st.dictionaries(
        st.sampled_from([*_valid_pdu, "unsigned", "state_key", "redacts", "event_id"]),
        json_values.any_values,
        max_size=2,
    ),
    st.sets(st.sampled_from([*_valid_pdu]), max_size=1),
)
@settings(max_examples=300)
def test_parse_raises_only_the_declared_error(version_name: str, changes: dict[str, Any], missing: set[str]) -> None:
    pdu = {key: value for key, value in (dict(_build(version_name).pdu) | changes).items() if key not in missing}
    try:
        event = parse_event(ROOM_VERSIONS[version_name], pdu)
    except EventFormatError:
        return
    assert event == parse_event(ROOM_VERSIONS[version_name], event.encoded)


@given(st.sampled_from(VERSIONS), st.binary(max_size=40) | json_values.any_values.map(lambda v: json.dumps(v).encode()))
def test_parse_of_noise_raises_only_the_declared_error(version_name: str, raw: bytes) -> None:
    with pytest.raises(EventFormatError):
        parse_event(ROOM_VERSIONS[version_name], raw)


# --- the format, field by field ------------------------------------------------------------------------------


@pytest.mark.parametrize("version_name", VERSIONS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sender", None),
        ("sender", "alice"),
        ("sender", "@" + "a" * 255 + ":d"),
        ("sender", "@a\x00:d"),
        ("type", 1),
        ("type", "t" * 256),
        ("state_key", None),
        ("state_key", "k" * 256),
        ("content", []),
        ("content", None),
        ("hashes", "x"),
        ("signatures", []),
        ("signatures", {"d": "x"}),
        ("signatures", {"d": {"k": 1}}),
        ("unsigned", 1),
        ("depth", -1),
        ("depth", "1"),
        ("depth", True),
        ("depth", 1.0),
        ("depth", 2**63),
        ("origin_server_ts", None),
        ("origin_server_ts", True),
        ("origin_server_ts", 2**63),
        ("prev_events", {}),
        ("prev_events", ["x"]),
        ("prev_events", [1]),
        ("prev_events", [["$a:d"]]),
        ("auth_events", None),
        ("room_id", None),
        ("room_id", "!x"),
        ("room_id", "r:d"),
    ],
)
def test_wrong_fields_are_named(version_name: str, field: str, value: Any) -> None:
    pdu = dict(_build(version_name).pdu) | {field: value}
    with pytest.raises(EventFormatError) as caught:
        parse_event(ROOM_VERSIONS[version_name], pdu)
    assert str(caught.value).startswith((field, "JSON"))


@pytest.mark.parametrize("version_name", VERSIONS)
def test_reference_forms_and_limits(version_name: str) -> None:
    version = ROOM_VERSIONS[version_name]
    pdu = dict(_build(version_name).pdu)

    def references(count: int, paired: bool) -> list[Any]:
        return [[f"${i}:d", {"sha256": "x"}] if paired else f"${i}:d" for i in range(count)]

    parse_event(version, pdu | {"prev_events": references(20, version.references_with_hashes)})
    parse_event(version, pdu | {"auth_events": references(10, version.references_with_hashes)})
    for field, count, paired in (
        ("prev_events", 21, version.references_with_hashes),
        ("auth_events", 11, version.references_with_hashes),
        ("prev_events", 1, not version.references_with_hashes),
    ):
        with pytest.raises(EventFormatError, match=field):
            parse_event(version, pdu | {field: references(count, paired)})


@pytest.mark.parametrize("version_name", VERSIONS)
def test_field_limits_count_bytes_or_code_points_by_version(version_name: str) -> None:
    version = ROOM_VERSIONS[version_name]
    pdu = dict(_build(version_name).pdu) | {"state_key": "é" * 200}
    if version.limits_in_bytes:
        with pytest.raises(EventFormatError, match="state_key"):
            parse_event(version, pdu)
    else:
        parse_event(version, pdu)
    with pytest.raises(MatrixError) as caught:  # events of this server are limited in bytes everywhere
        _build(version_name, state_key="é" * 200)
    assert (caught.value.errcode, caught.value.status) == ("M_TOO_LARGE", 413)


@pytest.mark.parametrize("version_name", VERSIONS)
def test_whole_event_is_limited_to_65536_bytes(version_name: str) -> None:
    room = 65536 - len(_build(version_name, {"body": ""}).encoded)
    event = _build(version_name, {"body": "x" * room})
    assert len(event.encoded) == 65536
    assert parse_event(ROOM_VERSIONS[version_name], event.encoded) == event
    with pytest.raises(MatrixError) as caught:
        _build(version_name, {"body": "x" * (room + 1)})
    assert (caught.value.errcode, caught.value.status) == ("M_TOO_LARGE", 413)
    with pytest.raises(EventFormatError, match="event"):
        parse_event(ROOM_VERSIONS[version_name], dict(event.pdu) | {"unsigned": {"age": 1}})


@pytest.mark.parametrize("version_name", VERSIONS)
@pytest.mark.parametrize("number", [1.5, 1.0, 2**53, -(2**53), 2**70, 1e-7])
def test_numbers_are_limited_by_version(version_name: str, number: float) -> None:
    if ROOM_VERSIONS[version_name].strict_canonical_json:
        with pytest.raises(MatrixError) as caught:
            _build(version_name, {"n": [number]})
        assert (caught.value.errcode, caught.value.status) == ("M_BAD_JSON", 400)
        with pytest.raises(EventFormatError):
            parse_event(ROOM_VERSIONS[version_name], dict(_build(version_name).pdu) | {"content": {"n": number}})
    else:
        event = _build(version_name, {"n": [number]})
        assert parse_event(ROOM_VERSIONS[version_name], event.encoded) == event
        assert event_from_storage(ROOM_VERSIONS[version_name], event.encoded, event.event_id).content == event.content


@pytest.mark.parametrize("version_name", VERSIONS)
def test_content_without_json_form_is_bad_json(version_name: str) -> None:
    with pytest.raises(MatrixError) as caught:
        _build(version_name, {"body": "\ud800"})
    assert caught.value.errcode == "M_BAD_JSON"


@pytest.mark.parametrize("version_name", VERSIONS)
def test_nul_is_legal_in_content_and_state_key(version_name: str) -> None:
    event = _build(version_name, {"body": "a\x00b"}, state_key="\x00")
    assert parse_event(ROOM_VERSIONS[version_name], event.encoded).content["body"] == "a\x00b"


@pytest.mark.parametrize("version_name", VERSIONS)
def test_redacts_is_put_where_the_version_has_it(version_name: str) -> None:
    version = ROOM_VERSIONS[version_name]
    for fields in ({"content": {"reason": "r"}, "redacts": "$t:d"}, {"content": {"reason": "r", "redacts": "$t:d"}}):
        event = _build(version_name, type="m.room.redaction", **fields)
        assert event.redacts == "$t:d"
        assert ("redacts" in event.pdu, "redacts" in event.content) == (
            not version.redacts_in_content,
            version.redacts_in_content,
        )
        assert parse_event(version, event.encoded).redacts == "$t:d"


@pytest.mark.parametrize("version_name", VERSIONS)
def test_depth_is_cut_at_the_limit(version_name: str) -> None:
    version = ROOM_VERSIONS[version_name]
    assert _build(version_name, depth=2**64).depth == version.max_depth


@pytest.mark.parametrize("version_name", versions_where(references_with_hashes=True))
def test_references_of_old_versions_have_hashes(version_name: str) -> None:
    room = Room(version_name)
    event = room.make("m.room.message", ALICE, {})
    for event_id, hashes in event.pdu["auth_events"]:
        named = next(e for e in room.events if e.event_id == event_id)
        assert hashes == {"sha256": encode_unpadded(reference_hash(room.version, named.pdu))}
    with pytest.raises(ValueError):
        _build(version_name, reference_hashes=None)
    with pytest.raises(ValueError):
        _build(version_name, event_id_localpart=None)


def test_content_hash_detects_a_changed_event() -> None:
    event = _build("12")
    assert not has_right_content_hash(dict(event.pdu) | {"content": {"body": "other"}})
    for hashes in (None, {}, {"sha256": 1}, {"sha256": "%"}):
        assert not has_right_content_hash(dict(event.pdu) | {"hashes": hashes})


def test_required_signers() -> None:
    room = Room("10")
    join = room.make("m.room.member", BOB, {"membership": "join", "join_authorised_via_users_server": ALICE}, BOB)
    assert required_signers(room.version, join) == {"b.example"}
    assert authorising_server(room.version, join) == "a.example"
    assert authorising_server(ROOM_VERSIONS["7"], join) is None
    invite = {"membership": "invite", "third_party_invite": {}}
    assert required_signers(room.version, room.make("m.room.member", ALICE, invite, BOB)) == frozenset()
    old = Room("1").make("m.room.message", BOB, {}, server_name="a.example")
    assert required_signers(ROOM_VERSIONS["1"], old) == {"a.example", "b.example"}
    for odd in ("alice", None, 1):
        content = {"membership": "join", "join_authorised_via_users_server": odd}
        assert authorising_server(room.version, room.make("m.room.member", BOB, content, BOB)) is None


def test_repr_has_no_content() -> None:
    assert "secret" not in repr(_build("12", {"body": "secret"}))


def test_room_versions() -> None:
    assert list(ROOM_VERSIONS) == [str(n) for n in range(1, 13)] and DEFAULT_ROOM_VERSION == "12"
    for known, version in ROOM_VERSIONS.items():
        assert get_room_version(known) is version and version.name == known
    unknown: tuple[Any, ...] = ("", "13", "01", None, ["1"])
    for name in unknown:
        with pytest.raises(MatrixError) as caught:
            get_room_version(name)
        assert (caught.value.errcode, caught.value.status) == ("M_UNSUPPORTED_ROOM_VERSION", 400)
