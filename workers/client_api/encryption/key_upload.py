"""Validation of uploaded keys. Spec: client-server API, POST /keys/upload."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from shared.core.errors import bad_json, invalid_param
from shared.core.identifiers import UserId, within_bytes
from shared.http.request import convert
from shared.storage.encryption.device_keys import KeyToUpload

MAX_KEYS = 500  # in one upload
_MAX_NAME_BYTES = 255  # of an algorithm or a key id
_MAX_KEY_BYTES = 4_096
_MAX_IDENTITY_BYTES = 65_536
_MAX_KEY_CHARS = 1_024


class KeyUploadBody(msgspec.Struct):
    device_keys: dict[str, Any] | None = None
    one_time_keys: dict[str, Any] | None = None
    fallback_keys: dict[str, Any] | None = None


class DeviceKeysBody(msgspec.Struct):
    """The identity keys of a device. Spec: client-server API, DeviceKeys."""

    user_id: UserId
    device_id: str
    algorithms: list[str]
    keys: dict[str, str]
    signatures: dict[str, dict[str, str]]


def parse_keys(keys: Mapping[str, Any]) -> list[KeyToUpload]:
    """Return the keys, whose names are `<algorithm>:<key id>`. Raises M_BAD_JSON, M_INVALID_PARAM."""
    if len(keys) > MAX_KEYS:
        raise invalid_param(f"An upload may have at most {MAX_KEYS} keys")
    parsed = []
    for name, value in keys.items():
        algorithm, _, key_id = name.partition(":")
        if not (algorithm and key_id and within_bytes(algorithm, _MAX_NAME_BYTES)):
            raise invalid_param("The name of a key must be <algorithm>:<key id>")
        if not within_bytes(key_id, _MAX_NAME_BYTES):
            raise invalid_param(f"A key id must have at most {_MAX_NAME_BYTES} bytes")
        _check_key(value)
        json = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if len(json) > _MAX_KEY_BYTES:
            raise invalid_param(f"A key must have at most {_MAX_KEY_BYTES} bytes")
        parsed.append(KeyToUpload(algorithm, key_id, hash=hashlib.sha256(json).digest(), json=json))
    return parsed


def _check_key(value: Any) -> None:
    text = value.get("key") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise bad_json("A key must be a string, or an object with the string `key`")
    if len(text) > _MAX_KEY_CHARS:
        raise invalid_param(f"A key must have at most {_MAX_KEY_CHARS} characters")


def check_identity_keys(
    given: dict[str, Any] | None, known: bytes | None, user_id: UserId, device_id: str
) -> bytes | None:
    """Return the identity keys to store; None if nothing changes.

    known: the stored keys, if any. Raises M_BAD_JSON, M_INVALID_PARAM.
    """
    if given is None:
        return None
    keys = convert(given, DeviceKeysBody)
    if (keys.user_id, keys.device_id) != (user_id, device_id):
        raise invalid_param("device_keys must name the user and the device of the access token")
    if f"ed25519:{device_id}" not in keys.keys:
        raise invalid_param(f"device_keys.keys must have ed25519:{device_id}")
    json = orjson.dumps({k: v for k, v in given.items() if k != "unsigned"}, option=orjson.OPT_SORT_KEYS)
    if len(json) > _MAX_IDENTITY_BYTES:
        raise invalid_param(f"device_keys must have at most {_MAX_IDENTITY_BYTES} bytes")
    return None if known == json else json


def have_other_keys(identity: bytes, known: bytes) -> bool:
    """Return True if these are other keys, and not the same keys with other signatures or algorithms."""
    return bool(orjson.loads(identity)["keys"] != orjson.loads(known).get("keys"))
