"""Signing and checking JSON objects. Spec: appendices, "Signing Details" and "Checking for a Signature"."""

from collections.abc import Mapping
from typing import Any

from shared.core.canonical_json import decode_unpadded, encode_canonical, encode_unpadded
from shared.core.errors import SignatureError
from shared.core.signing.keys import SigningKey, check_signature

#: Not covered by a signature, so that other servers can add to them.
#: Not covered by a signature, so that others can add to them.
_UNSIGNED_KEYS = ("signatures", "unsigned")


def signed_bytes(obj: Mapping[str, Any]) -> bytes:
    """Return the bytes that a signature of this object covers.

    Raises EventFormatError if the object has no canonical JSON form.
    """
    return encode_canonical({key: value for key, value in obj.items() if key not in _UNSIGNED_KEYS})


def sign_json(obj: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """Return a copy of the object with one more signature. Other signatures and `unsigned` are kept.

    server_name: the signing entity: a server, or a user for cross-signing.
    """
    return add_signature(obj, server_name, key.key_id, key.sign(signed_bytes(obj)))


def add_signature(obj: Mapping[str, Any], entity: str, key_id: str, signature: bytes) -> dict[str, Any]:
    """Return a copy of the object with this signature added. Ill-formed signatures are removed."""
    present = obj.get("signatures")
    signatures = {
        name: dict(by_key)
        for name, by_key in (present.items() if isinstance(present, Mapping) else ())
        if isinstance(by_key, Mapping)
    }
    signatures.setdefault(entity, {})[key_id] = encode_unpadded(signature)
    return {**obj, "signatures": signatures}


def signatures_of(obj: Mapping[str, Any], server_name: str) -> dict[str, str]:
    """Return the entity's ed25519 signatures as key id -> base64, empty if there are none or the shape is wrong."""
    signatures = obj.get("signatures")
    by_key = signatures.get(server_name) if isinstance(signatures, Mapping) else None
    if not isinstance(by_key, Mapping):
        return {}
    return {
        key_id: signature
        for key_id, signature in by_key.items()
        if isinstance(signature, str) and key_id.startswith("ed25519:")
    }


def verify_json(obj: Mapping[str, Any], server_name: str, key_id: str, verify_key: bytes) -> None:
    """Raise SignatureError unless the object carries the entity's signature by this key.

    key_id: such as "ed25519:a_abc".
    verify_key: 32 bytes.
    """
    check_signature(signed_bytes(obj), signature_by(obj, server_name, key_id), verify_key)


def signature_by(obj: Mapping[str, Any], server_name: str, key_id: str) -> bytes:
    """Return the signature's bytes. Raises SignatureError if it is missing or not base64."""
    text = signatures_of(obj, server_name).get(key_id)
    if text is None:
        raise SignatureError(f"no signature of {server_name} by {key_id}")
    try:
        return decode_unpadded(text)
    except ValueError:
        raise SignatureError(f"the signature of {server_name} by {key_id} is not base64") from None
