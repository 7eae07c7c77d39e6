"""The `Authorization: X-Matrix` header of requests between servers. Spec: server-server API, "Request Authentication".

    X-Matrix origin="a.org",destination="b.org",key="ed25519:1",sig="..."

Parameters come in any order, quoted or not, with blanks around them. Names are case-insensitive, and unknown ones are
ignored. Older servers leave out `destination`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.canonical_json import decode_unpadded, encode_unpadded
from shared.core.errors import SignatureError
from shared.core.identifiers import ServerName, is_server_name
from shared.core.signing.json_signatures import signed_bytes
from shared.core.signing.keys import ALGORITHM, SigningKey, check_signature

SCHEME = "X-Matrix"
#: Four values of at most 255 bytes, and unknown parameters.
_MAX_HEADER_CHARS = 4096
# Servers also send ":" in unquoted values, such as key="ed25519:1" without the quotes, and "=" in base64.
_PARAMETER = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^",\\ \t]*))[ \t]*(?:,|$)"""
)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSignature:
    """The parsed header.

    destination: None if the sender left it out.
    key_id: such as "ed25519:a_abc".
    signature: 64 bytes, if the sender is honest.
    """

    origin: ServerName
    destination: ServerName | None
    key_id: str
    signature: bytes


def parse_request_signature(header: str) -> RequestSignature:
    """Return the parameters of an Authorization header. Raises SignatureError, which says what is wrong."""
    scheme, _, rest = header[: _MAX_HEADER_CHARS + 1].partition(" ")
    if scheme.lower() != SCHEME.lower():
        raise SignatureError(f"the Authorization header must have the scheme {SCHEME}")
    if len(header) > _MAX_HEADER_CHARS:
        raise SignatureError(f"the Authorization header must have at most {_MAX_HEADER_CHARS} characters")
    given: dict[str, str] = {}
    at, rest = 0, rest.strip(" \t,")
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None:
            raise SignatureError("the Authorization header is not a list of name=value")
        name, quoted, bare = found.groups()
        name = name.lower()
        if name in given:
            raise SignatureError(f"the Authorization header has {name} twice")
        given[name] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare
        at = found.end()
    if missing := [name for name in ("origin", "key", "sig") if not given.get(name)]:
        raise SignatureError(f"the Authorization header lacks {missing[0]}")
    names = {name: given[name] for name in ("origin", "destination") if name in given}
    if wrong := [name for name, value in names.items() if not is_server_name(value)]:
        raise SignatureError(f"{wrong[0]} of the Authorization header is not a server name")
    if not given["key"].startswith(f"{ALGORITHM}:"):
        raise SignatureError(f"the key must be an {ALGORITHM} key")
    try:
        signature = decode_unpadded(given["sig"])
    except ValueError:
        raise SignatureError("the signature is not base64") from None
    return RequestSignature(
        origin=ServerName(given["origin"]),
        destination=ServerName(given["destination"]) if "destination" in given else None,
        key_id=given["key"],
        signature=signature,
    )


def sign_request(
    key: SigningKey,
    *,
    origin: ServerName,
    destination: ServerName,
    method: str,
    uri: str,
    content: Mapping[str, Any] | None,
) -> str:
    """Return the header's value for a request.

    uri: path and query, percent-encoded as they are sent.
    content: the JSON body, None without a body. Raises EventFormatError if it has no canonical form.
    """
    signature = key.sign(_signed_bytes(origin, destination, method, uri, content))
    values = {"origin": origin, "destination": destination, "key": key.key_id, "sig": encode_unpadded(signature)}
    return f"{SCHEME} " + ",".join(f'{name}="{value}"' for name, value in values.items())


def check_request_signature(
    signature: RequestSignature,
    verify_key: bytes,
    *,
    method: str,
    uri: str,
    content: Mapping[str, Any] | None,
) -> None:
    """Raise SignatureError unless the key signed this request.

    verify_key: the origin's key named in the header, 32 bytes.
    content: as in `sign_request`. Raises EventFormatError if it has no canonical form.
    """
    message = _signed_bytes(signature.origin, signature.destination, method, uri, content)
    check_signature(message, signature.signature, verify_key)


def _signed_bytes(
    origin: str, destination: str | None, method: str, uri: str, content: Mapping[str, Any] | None
) -> bytes:
    signed: dict[str, Any] = {"method": method, "uri": uri, "origin": origin}
    if destination is not None:
        signed["destination"] = destination
    if content is not None:
        signed["content"] = content
    return signed_bytes(signed)
