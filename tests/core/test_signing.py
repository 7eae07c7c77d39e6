"""Spec: appendices, "Signing JSON" and "Cryptographic Test Vectors"."""

from typing import Any

import pytest
from hypothesis import given

from shared.core.canonical_json import decode_unpadded, encode_unpadded
from shared.core.errors import SignatureError
from shared.core.signing import (
    SigningKey,
    format_signing_key,
    generate_signing_key,
    parse_signing_key,
    parse_verify_key,
    sign_json,
    signatures_of,
    verify_json,
)
from tests.core import json_values
from tests.core.spec_vectors import VECTORS

_SPEC_KEY = VECTORS["signing_key"]
KEY = generate_signing_key(decode_unpadded(_SPEC_KEY["seed_base64"]), "1")


def test_verify_key_of_the_spec() -> None:
    assert KEY.key_id == _SPEC_KEY["key_id"]
    assert KEY.verify_key_base64 == _SPEC_KEY["public_key_base64"]
    assert parse_verify_key(_SPEC_KEY["public_key_base64"]) == KEY.verify_key


@pytest.mark.parametrize("case", VECTORS["json_signing"]["cases"])
def test_json_signatures_of_the_spec(case: dict[str, Any]) -> None:
    assert sign_json(case["in"], "domain", KEY) == case["out"]
    verify_json(case["out"], "domain", "ed25519:1", KEY.verify_key)


@given(json_values.any_objects)
def test_signing_keeps_the_rest_of_the_object(obj: dict[str, Any]) -> None:
    obj.pop("signatures", None)
    other = sign_json(obj, "other", KEY) | {"unsigned": {"age": 5}}
    signed = sign_json(other, "domain", KEY)
    assert set(signed["signatures"]) == {"other", "domain"}
    assert {k: v for k, v in signed.items() if k != "signatures"} == {
        k: v for k, v in other.items() if k != "signatures"
    }
    verify_json(signed, "other", KEY.key_id, KEY.verify_key)
    verify_json(signed | {"unsigned": {"age": 6}}, "domain", KEY.key_id, KEY.verify_key)


@pytest.mark.parametrize(
    "signatures",
    [
        *(None, [], {}, {"domain": []}, {"domain": {"rsa:1": "AAAA"}}),
        *({"domain": {"ed25519:1": signature}} for signature in (1, "%", "", "A" * 86)),
    ],
)
def test_missing_and_wrong_signatures_are_refused(signatures: Any) -> None:
    with pytest.raises(SignatureError):
        verify_json({"a": 1, "signatures": signatures}, "domain", "ed25519:1", KEY.verify_key)


def test_a_change_breaks_the_signature() -> None:
    signed = sign_json({"a": 1}, "domain", KEY)
    for broken in (signed | {"a": 2}, signed | {"b": 1}):
        with pytest.raises(SignatureError):
            verify_json(broken, "domain", "ed25519:1", KEY.verify_key)
    with pytest.raises(SignatureError):
        verify_json(signed, "domain", "ed25519:1", generate_signing_key(b"2" * 32, "1").verify_key)


def test_keys_of_small_order_verify_nothing() -> None:
    small = bytes([1]) + bytes(31)
    forged = encode_unpadded(small + bytes(32))
    with pytest.raises(SignatureError):
        verify_json({"signatures": {"d": {"ed25519:1": forged}}}, "d", "ed25519:1", small)


def test_signing_key_line_round_trip() -> None:
    key = parse_signing_key(f"ed25519 a_abc {_SPEC_KEY['seed_base64']}\n")
    assert (key.key_id, key.verify_key) == ("ed25519:a_abc", KEY.verify_key)
    assert parse_signing_key(format_signing_key(key)) == key
    assert _SPEC_KEY["seed_base64"] not in repr(key) and repr(key.seed) not in repr(key)


@pytest.mark.parametrize(
    "line", ["", "ed25519 a", "rsa a AAAA", "ed25519 a %%%", "ed25519 a AAAA", "ed25519 a:b " + "A" * 43]
)
def test_bad_signing_key_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_signing_key(line)
    assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "%", "AAAA", "A" * 44])
def test_bad_verify_keys_are_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        parse_verify_key(text)


def test_ill_formed_signatures_are_ignored() -> None:
    assert signatures_of(sign_json({}, "d", KEY), "d").keys() == {"ed25519:1"}
    for odd in ({}, {"signatures": 1}, {"signatures": {"d": 1}}):
        assert signatures_of(odd, "d") == {}


def test_signing_key_is_a_value() -> None:
    assert isinstance(KEY, SigningKey) and generate_signing_key(KEY.seed, "1") == KEY
