"""What a client uploads as keys, checked. Spec: client-server API, POST /keys/upload."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from shared.core.errors import bad_json, invalid_param
from shared.core.identifiers import within_bytes
from shared.http.request import convert

MAX_KEYS = 500  # of one upload
_MAX_NAME_BYTES = 255  # of an algorithm, of a key id
_MAX_KEY_BYTES = 4_096
_MAX_IDENTITY_BYTES = 65_536
_MAX_KEY_CHARS = 1_024


class KeyUploadBody(msgspec.Struct):
    device_keys: dict[str, Any] | None = None
    one_time_keys: dict[str, Any] | None = None
    fallback_keys: dict[str, Any] | None = None


class DeviceKeysBody(msgspec.Struct):
    """Spec: DeviceKeys."""

    user_id: str
    device_id: str
    algorithms: list[str]
    keys: dict[str, str]
    signatures: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class UploadedKey:
    """A one-time or fallback key. hash: SHA-256 of its JSON with sorted keys."""

    algorithm: str
    key_id: str
    json: bytes
    hash: bytes


def parse_keys(keys: Mapping[str, Any]) -> list[UploadedKey]:
    """Return keys that were named `<algorithm>:<key id>`. Raises M_BAD_JSON, M_INVALID_PARAM."""
    if len(keys) > MAX_KEYS:
        raise invalid_param(f"At most {MAX_KEYS} keys at a time")
    parsed = []
    for name, value in keys.items():
        algorithm, _, key_id = name.partition(":")
        if not (algorithm and key_id and within_bytes(algorithm, _MAX_NAME_BYTES)):
            raise invalid_param("A key's name is <algorithm>:<key id>")
        if not within_bytes(key_id, _MAX_NAME_BYTES):
            raise invalid_param(f"A key's id has {_MAX_NAME_BYTES} bytes at most")
        _check_key(value)
        json = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        if len(json) > _MAX_KEY_BYTES:
            raise invalid_param(f"A key has {_MAX_KEY_BYTES} bytes at most")
        parsed.append(UploadedKey(algorithm, key_id, json, hashlib.sha256(json).digest()))
    return parsed


def _check_key(value: Any) -> None:
    text = value.get("key") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise bad_json("A key is a string, or an object with the string `key`")
    if len(text) > _MAX_KEY_CHARS:
        raise invalid_param(f"A key has {_MAX_KEY_CHARS} characters at most")


def check_identity_keys(
    given: dict[str, Any] | None, known: bytes | None, user_id: str, device_id: str
) -> bytes | None:
    """Return identity keys as they are to be stored; None when nothing changes. known: those there, None for none.

    Raises M_BAD_JSON, M_INVALID_PARAM: keys that others verified must not become others.
    """
    if given is None:
        return None
    keys = convert(given, DeviceKeysBody)
    if (keys.user_id, keys.device_id) != (user_id, device_id):
        raise invalid_param("These are the keys of another device")
    if f"ed25519:{device_id}" not in keys.keys:
        raise invalid_param("The device's Ed25519 key is missing")
    json = orjson.dumps({k: v for k, v in given.items() if k != "unsigned"}, option=orjson.OPT_SORT_KEYS)
    if len(json) > _MAX_IDENTITY_BYTES:
        raise invalid_param(f"A device's keys have {_MAX_IDENTITY_BYTES} bytes at most")
    if known is None:
        return json
    if orjson.loads(known).get("keys") != keys.keys:
        raise invalid_param("A device's identity keys do not change")
    return None if known == json else json
