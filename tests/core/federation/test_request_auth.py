"""The X-Matrix header: every form that servers send is understood, and none that is forged."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.canonical_json import encode_unpadded
from shared.core.errors import SignatureError
from shared.core.federation.request_auth import (
    check_request_signature,
    parse_request_signature,
    sign_request,
)
from shared.core.identifiers import ServerName
from shared.core.signing.keys import SigningKey, generate_signing_key

_KEY = generate_signing_key(b"7" * 32, "a_1")
_OTHER = generate_signing_key(b"8" * 32, "a_1")
_SIG = encode_unpadded(b"s" * 64)
_ORIGIN, _DESTINATION = ServerName("origin.example:8448"), ServerName("[2001:db8::1]")
_URI = "/_matrix/federation/v1/send/1?a=%20b"


def _header(content: dict[str, object] | None = None) -> str:
    return sign_request(_KEY, origin=_ORIGIN, destination=_DESTINATION, method="PUT", uri=_URI, content=content)


def test_signed_request_verifies() -> None:
    found = parse_request_signature(_header({"b": 1, "a": "ü"}))
    assert (found.origin, found.destination, found.key_id) == (_ORIGIN, _DESTINATION, "ed25519:a_1")
    check_request_signature(found, _KEY.verify_key, method="PUT", uri=_URI, content={"a": "ü", "b": 1})


@pytest.mark.parametrize(
    ("method", "uri", "content", "key"),
    [
        ("POST", _URI, {"a": 1}, _KEY),
        ("PUT", _URI.replace("%20", "+"), {"a": 1}, _KEY),
        ("PUT", _URI.partition("?")[0], {"a": 1}, _KEY),
        ("PUT", _URI, {"a": 2}, _KEY),
        ("PUT", _URI, {}, _KEY),
        ("PUT", _URI, None, _KEY),
        ("PUT", _URI, {"a": 1}, _OTHER),
    ],
)
def test_signature_covers_method_uri_and_content(
    method: str, uri: str, content: dict[str, int] | None, key: SigningKey
) -> None:
    found = parse_request_signature(_header({"a": 1}))
    with pytest.raises(SignatureError):
        check_request_signature(found, key.verify_key, method=method, uri=uri, content=content)


def test_signature_covers_destination_also_when_it_is_left_out() -> None:
    header = _header(None)
    without = header.replace(f',destination="{_DESTINATION}"', "")
    found = parse_request_signature(without)
    assert found.destination is None
    with pytest.raises(SignatureError):
        check_request_signature(found, _KEY.verify_key, method="PUT", uri=_URI, content=None)


@pytest.mark.parametrize(
    "header",
    [
        f'X-Matrix origin="a.org",destination="b.org",key="ed25519:1",sig="{_SIG}"',
        f"X-Matrix origin=a.org,destination=b.org,key=ed25519:1,sig={_SIG}",
        f'x-matrix  sig="{_SIG}" , KEY="ed25519:1"\t,Origin = "a.org", destination= b.org',
        f'X-Matrix origin="a\\.org",destination="b.org",key="ed25519:1",sig="{_SIG}",',
        f'X-Matrix future="a,b=\\"c\\"",origin="a.org",destination="b.org",key="ed25519:1",sig="{_SIG}",x=',
    ],
)
def test_every_written_form_is_understood(header: str) -> None:
    found = parse_request_signature(header)
    assert (found.origin, found.destination, found.key_id, found.signature) == (
        "a.org",
        "b.org",
        "ed25519:1",
        b"s" * 64,
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Bearer abc", "scheme"),
        ("X-Matrix", "lacks origin"),
        ('X-Matrix origin="a.org",key="ed25519:1"', "lacks sig"),
        (f'X-Matrix origin="a.org",origin="b.org",key="ed25519:1",sig="{_SIG}"', "twice"),
        (f'X-Matrix origin="a org",key="ed25519:1",sig="{_SIG}"', "origin of the"),
        (f'X-Matrix origin="a.org",destination="",key="ed25519:1",sig="{_SIG}"', "destination of the"),
        (f'X-Matrix origin="a.org",key="rsa:1",sig="{_SIG}"', "ed25519"),
        ('X-Matrix origin="a.org",key="ed25519:1",sig="é"', "base64"),
        (f'X-Matrix origin="a.org" key="ed25519:1",sig="{_SIG}"', "list"),
        (f'X-Matrix origin="a.org",key="ed25519:1",sig="{_SIG}', "list"),
        ("X-Matrix " + "a=b," * 2000, "at most"),
    ],
)
def test_malformed_header_is_refused_with_a_reason(header: str, told: str) -> None:
    with pytest.raises(SignatureError, match=told):
        parse_request_signature(header)


@given(st.text(max_size=300))
def test_no_header_raises_anything_else(text: str) -> None:
    for header in (text, f"X-Matrix {text}", f'X-Matrix origin="a.org",{text}'):
        with contextlib.suppress(SignatureError):
            parse_request_signature(header)
