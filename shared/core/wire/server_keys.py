"""The published keys of this server. Spec: server-server API, "Publishing Keys"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.core.signing.json_signatures import sign_json
from shared.core.signing.keys import SigningKey


@dataclass(frozen=True, slots=True)
class ExpiredKey:
    """A key that no longer signs. key: unpadded base64. expired_ms: the end of its use."""

    key_id: str
    key: str
    expired_ms: int


def build_server_keys(
    server_name: str, keys: Sequence[SigningKey], old_keys: Sequence[ExpiredKey], valid_until_ms: int
) -> dict[str, Any]:
    """Return the answer of GET /_matrix/key/v2/server, signed by each of the current keys.

    keys: one or more keys in use.
    valid_until_ms: how long other servers may rely on the answer.
    """
    answer: dict[str, Any] = {
        "server_name": server_name,
        "valid_until_ts": valid_until_ms,
        "verify_keys": {key.key_id: {"key": key.verify_key_base64} for key in keys},
        "old_verify_keys": {old.key_id: {"key": old.key, "expired_ts": old.expired_ms} for old in old_keys},
    }
    for key in keys:
        answer = sign_json(answer, server_name, key)
    return answer
