"""The keys that a server publishes. Spec: server-server API, "Retrieving server keys"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.canonical_json import encode_canonical
from shared.core.errors import EventFormatError, SignatureError
from shared.core.event_checks.signatures import VerifyKey, capped_validity
from shared.core.identifiers import ServerName
from shared.core.signing.json_signatures import signatures_of, verify_json
from shared.core.signing.keys import ALGORITHM, parse_verify_key

#: Of one server, old ones included.
MAX_KEYS = 100
_MAX_KEY_ID_CHARS = 200
#: The greatest integer that JSON of Matrix may have.
_MAX_MS = (1 << 53) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedKeys:
    """The keys of one server, as it signed them.

    keys: by key id, those in use and the old ones.
    valid_until_ms: of the keys in use, capped to seven days from the time of the answer.
    signed: the answer as canonical JSON, with the server's own signatures.
    """

    server: ServerName
    keys: Mapping[str, VerifyKey]
    valid_until_ms: int
    signed: bytes


def parse_published_keys(answer: Any, server: ServerName, now_ms: int) -> PublishedKeys:
    """Return the keys of an answer that this server signed with one of its keys in use.

    answer: decoded JSON of GET /_matrix/key/v2/server, or of one entry of a notary's `server_keys`.
    Raises SignatureError, which says what is wrong. A key of another algorithm, or in the wrong form, is left out.
    """
    if not isinstance(answer, Mapping):
        raise SignatureError("the answer is not an object")
    if answer.get("server_name") != server:
        raise SignatureError(f"the answer is about the keys of another server than {server}")
    valid_until_ms = answer.get("valid_until_ts")
    if not isinstance(valid_until_ms, int) or not _is_time(valid_until_ms):
        raise SignatureError("valid_until_ts is not a time in milliseconds")
    capped_ms = capped_validity(valid_until_ms, now_ms)
    used = {key_id: VerifyKey(key, valid_until_ts=capped_ms) for key_id, key, _ in _keys(answer.get("verify_keys"))}
    if not used:
        raise SignatureError(f"{server} publishes no {ALGORITHM} key")
    old = {
        key_id: VerifyKey(key, expired_ts=value["expired_ts"])
        for key_id, key, value in _keys(answer.get("old_verify_keys"))
        if _is_time(value.get("expired_ts")) and key_id not in used
    }
    _check_own_signature(answer, server, used)
    try:
        signed = encode_canonical(dict(answer))
    except EventFormatError as error:
        raise SignatureError(str(error)) from None
    return PublishedKeys(server=server, keys={**old, **used}, valid_until_ms=capped_ms, signed=signed)


def _check_own_signature(answer: Mapping[str, Any], server: ServerName, used: Mapping[str, VerifyKey]) -> None:
    own = [key_id for key_id in signatures_of(answer, server) if key_id in used]
    if not own:
        raise SignatureError(f"{server} has not signed the answer with a key that it uses")
    for key_id in own:
        try:
            verify_json(answer, server, key_id, used[key_id].key)
        except EventFormatError as error:
            raise SignatureError(str(error)) from None


def _keys(given: Any) -> list[tuple[str, bytes, Mapping[str, Any]]]:
    """Return (key id, key, its record) of each well-formed ed25519 key."""
    if not isinstance(given, Mapping):
        return []
    if len(given) > MAX_KEYS:
        raise SignatureError(f"the server publishes more than {MAX_KEYS} keys")
    found = []
    for key_id, value in given.items():
        if not key_id.startswith(f"{ALGORITHM}:") or len(key_id) > _MAX_KEY_ID_CHARS or not isinstance(value, Mapping):
            continue
        try:
            found.append((key_id, parse_verify_key(value.get("key", "")), value))
        except (SignatureError, TypeError, AttributeError):
            continue
    return found


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_MS
