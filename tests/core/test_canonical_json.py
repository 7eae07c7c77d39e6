"""Spec: appendices, "Canonical JSON"; the reference is canonicaljson. See measured.md, question 4."""

import json
import math
import sys
from typing import Any

import canonicaljson
import orjson
import pytest
from hypothesis import given, settings

from shared.core import canonical_json as cj
from shared.core.errors import EventFormatError, MatrixError
from tests.core import json_values
from tests.core.spec_vectors import VECTORS


@given(json_values.any_values)
@settings(max_examples=400)
def test_encoding_equals_the_reference(value: Any) -> None:
    assert cj.encode_canonical(value) == canonicaljson.encode_canonical_json(value)


@given(json_values.strict_values)
def test_encoding_without_float_search_equals_the_reference(value: Any) -> None:
    cj.check_strict_numbers(value)
    assert cj.encode_canonical(value, may_hold_floats=False) == canonicaljson.encode_canonical_json(value)


def _deep(levels: int, leaf: Any = 1) -> Any:
    value = leaf
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [1e-7, 1e-10, 1e22, -0.0, 2**64, -(2**63) - 1, 10**40, _deep(300), {"￿": 1, "\U0001f600": 2, "": 3}, (1, "a")],
)
def test_values_that_orjson_alone_encodes_differently(value: Any) -> None:
    assert cj.encode_canonical(value) == canonicaljson.encode_canonical_json(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "\ud800", {"\ud800": 1}, object(), {1, 2}, _deep(50_000)]
)
def test_values_without_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(EventFormatError):
        cj.encode_canonical({"a": value})


@pytest.mark.parametrize("leaf", [1, 1.5, 2**64])
def test_limit_of_nesting_does_not_depend_on_the_recursion_limit(leaf: Any) -> None:
    """Other code in the process may raise the interpreter's limit, and callers use up different parts of it."""
    deepest = _deep(cj.MAX_ENCODED_NESTING, leaf)
    assert cj.encode_canonical(deepest) == canonicaljson.encode_canonical_json(deepest)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * cj.MAX_ENCODED_NESTING)
    try:
        with pytest.raises(EventFormatError, match="nested deeper than 500 levels"):
            cj.encode_canonical([deepest])
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("case", VECTORS["canonical_json"]["cases"])
def test_examples_of_the_spec(case: dict[str, str]) -> None:
    if "1e10" in case["in_json_text"]:
        # Floats have no agreed form. Rooms up to version 5 use the reference's form, "10000000000.0"; later versions
        # refuse floats.
        with pytest.raises(EventFormatError):
            cj.check_strict_numbers(cj.decode_json(case["in_json_text"]))
        return
    assert cj.encode_canonical(cj.decode_json(case["in_json_text"])).decode() == case["out"]


@pytest.mark.parametrize("case", VECTORS["canonical_json_escapes"]["cases"])
def test_escapes_are_those_of_the_spec(case: dict[str, Any]) -> None:
    assert cj.encode_canonical("".join(map(chr, case["in_codepoints"]))).decode() == case["out"]


def test_strict_numbers_are_integers_within_53_bits() -> None:
    limits = VECTORS["canonical_json_strict_limits"]
    for number in limits["accept_ints"]:
        cj.check_strict_numbers({"a": [number]})
    for number in [*limits["reject_ints"], 1.0, math.nan]:
        with pytest.raises(EventFormatError):
            cj.check_strict_numbers({"a": [{"b": number}]})
    for text in limits["reject_json_text"]:
        with pytest.raises((EventFormatError, MatrixError)):
            cj.check_strict_numbers(cj.decode_json(text))
    cj.check_strict_numbers([True, None, "1.5"])


@pytest.mark.parametrize("decode", [cj.decode_json, cj.decode_json_exactly])
@pytest.mark.parametrize(
    ("raw", "errcode"),
    [
        (b"", "M_NOT_JSON"),
        (b"{", "M_NOT_JSON"),
        (b"{'a': 1}", "M_NOT_JSON"),
        (b'{"a": NaN}', "M_NOT_JSON"),
        (b"\xff\xfe", "M_NOT_JSON"),
        (b'"\xed\xa0\x80"', "M_NOT_JSON"),
        (b"[" * 101 + b"]" * 101, "M_BAD_JSON"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "M_BAD_JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "M_BAD_JSON"),
    ],
)
def test_bad_bodies_raise_matrix_errors(decode: Any, raw: bytes, errcode: str) -> None:
    with pytest.raises(MatrixError) as caught:
        decode(raw)
    assert (caught.value.errcode, caught.value.status) == (errcode, 400)


def test_deepest_allowed_body() -> None:
    raw = b"[" * 100 + b"]" * 100
    assert cj.decode_json(raw) == cj.decode_json_exactly(raw) == json.loads(raw)


def test_big_integers_survive_exact_decoding_only() -> None:
    assert cj.decode_json_exactly(b"18446744073709551616") == 2**64
    assert isinstance(cj.decode_json(b"18446744073709551616"), float)


def test_base64_round_trip() -> None:
    for case in VECTORS["unpadded_base64"]["cases"]:
        assert cj.encode_unpadded(case["in_utf8"].encode()) == case["out"]
        assert cj.decode_unpadded(case["out"]) == case["in_utf8"].encode()
    for case in VECTORS["unpadded_base64_urlsafe"]["cases"]:
        raw = bytes.fromhex(case["in_hex"])
        assert (cj.encode_unpadded(raw), cj.encode_unpadded_urlsafe(raw)) == (case["standard"], case["urlsafe"])
        assert cj.decode_unpadded(case["standard"]) == cj.decode_unpadded(case["urlsafe"]) == raw
    for case in VECTORS["base64_decode_lenient"]["cases"]:
        assert cj.decode_unpadded(case["in"]) == case["utf8"].encode()


@pytest.mark.parametrize("text", ["a", "é", "a b=", "!!!!", "AAAAA"])
def test_bad_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        cj.decode_unpadded(text)


_MIB = 1_048_576


@pytest.mark.parametrize("body", [b"[]", b"{}", b"1", b'{"a":1}'])
def test_large_bodies_of_very_many_values_are_refused(body: bytes) -> None:
    """Decoding a megabyte of empty arrays takes a sixth of a second."""
    hostile = b'{"a":[' + b",".join([body] * (_MIB // (len(body) + 1))) + b"]}"
    with pytest.raises(MatrixError) as refused:
        cj.check_structure(hostile)
    assert (refused.value.errcode, refused.value.status) == ("M_TOO_LARGE", 413)
    cj.check_structure(hostile[:4_096])


def test_large_bodies_of_clients_pass() -> None:
    session = {"first_message_index": 0, "forwarded_count": 0, "is_verified": False, "session_data": {"c": "x" * 600}}
    backup = {"rooms": {f"!{n}:x": {"sessions": {f"s{m}": session for m in range(10)}} for n in range(100)}}
    direct = {f"@user{n}:example.org": [f"!room{n}:example.org"] for n in range(15_000)}
    devices: dict[str, Any] = {"device_keys": {f"@user{n}:example.org": [] for n in range(10_000)}}
    for body in (backup, direct, devices, {"messages": {"body": "x" * 900_000}}):
        cj.check_structure(orjson.dumps(body))
