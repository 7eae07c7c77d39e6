"""The keys of other servers: only those that the server itself signed, and only in the right form."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.canonical_json import encode_unpadded
from shared.core.errors import SignatureError
from shared.core.event_checks.signatures import MAX_KEY_VALIDITY_MS
from shared.core.federation.published_keys import MAX_KEYS, parse_published_keys
from shared.core.identifiers import ServerName
from shared.core.signing.json_signatures import sign_json
from shared.core.signing.keys import generate_signing_key
from shared.core.wire.server_keys import ExpiredKey, build_server_keys

_SERVER = ServerName("peer.example")
_KEY, _OTHER = generate_signing_key(b"k" * 32, "a"), generate_signing_key(b"o" * 32, "b")
_NOW = 1_700_000_000_000


def _answer() -> dict[str, Any]:
    old = ExpiredKey("ed25519:old", _OTHER.verify_key_base64, _NOW - 1000)
    return build_server_keys(_SERVER, [_KEY], [old], _NOW + 3_600_000)


def test_own_keys_are_read_back() -> None:
    found = parse_published_keys(_answer(), _SERVER, _NOW)
    assert found.keys["ed25519:a"].key == _KEY.verify_key
    assert found.keys["ed25519:a"].valid_until_ts == found.valid_until_ms == _NOW + 3_600_000
    assert found.keys["ed25519:old"].expired_ts == _NOW - 1000
    assert b'"server_name":"peer.example"' in found.signed


def test_validity_is_capped_to_seven_days() -> None:
    answer = build_server_keys(_SERVER, [_KEY], [], _NOW + 10**12)
    assert parse_published_keys(answer, _SERVER, _NOW).valid_until_ms == _NOW + MAX_KEY_VALIDITY_MS


def test_signatures_of_others_beside_the_own_do_not_matter() -> None:
    signed = sign_json(_answer(), "notary.example", _OTHER)
    assert parse_published_keys(signed, _SERVER, _NOW).keys


def _resigned(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    answer = _answer()
    change(answer)
    del answer["signatures"]
    return sign_json(answer, _SERVER, _KEY)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a.update(server_name="other.example"), "another server"),
        (lambda a: a.update(valid_until_ts="soon"), "valid_until_ts"),
        (lambda a: a.update(valid_until_ts=True), "valid_until_ts"),
        (lambda a: a.update(verify_keys={}), "no ed25519 key"),
        (lambda a: a.update(verify_keys=[1]), "no ed25519 key"),
        (lambda a: a.update(verify_keys={"ed25519:a": {"key": "short"}}), "no ed25519 key"),
        (lambda a: a.update(verify_keys={"ed25519:x": {"key": _OTHER.verify_key_base64}}), "has not signed"),
        (lambda a: a.update(verify_keys={f"ed25519:{n}": {} for n in range(MAX_KEYS + 1)}), "more than"),
    ],
)
def test_wrong_answer_is_refused_with_a_reason(change: Callable[[dict[str, Any]], object], told: str) -> None:
    with pytest.raises(SignatureError, match=told):
        parse_published_keys(_resigned(change), _SERVER, _NOW)


def test_changed_answer_is_refused() -> None:
    answer = {**_answer(), "valid_until_ts": _NOW + 7_200_000}
    with pytest.raises(SignatureError, match="does not verify"):
        parse_published_keys(answer, _SERVER, _NOW)


def test_key_in_the_wrong_form_is_left_out_and_others_stay() -> None:
    def add(answer: dict[str, Any]) -> None:
        answer["verify_keys"] |= {
            "ed25519:none": {},
            "ed25519:number": {"key": 5},
            "ed25519:list": [],
            "curve:a": {"key": encode_unpadded(b"c" * 32)},
        }
        answer["old_verify_keys"]["ed25519:untimed"] = {"key": _OTHER.verify_key_base64}

    assert set(parse_published_keys(_resigned(add), _SERVER, _NOW).keys) == {"ed25519:a", "ed25519:old"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["server_name", "verify_keys", "old_verify_keys", "valid_until_ts", "signatures"]),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_no_answer_raises_anything_else(answer: Any) -> None:
    if isinstance(answer, dict):
        answer = {**answer, "server_name": _SERVER}
    with pytest.raises(SignatureError):
        parse_published_keys(answer, _SERVER, _NOW)
