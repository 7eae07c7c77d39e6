"""Events changed and signed again, and the keys of the test servers."""

from collections.abc import Mapping
from typing import Any

from shared.core.canonical_json import encode_unpadded
from shared.core.event_checks import VerifyKey
from shared.core.events import Event, parse_event
from shared.core.events.hashing import content_hash
from shared.core.events.signatures import sign_pdu
from shared.core.room_versions import RoomVersion
from shared.core.signing import SigningKey
from tests.core.rooms import KEY

SERVERS = ("a.example", "b.example", "c.example")

#: Long after the events of `Room`.
LATER_MS = 1_800_000_000_000

KEYS = {(server, KEY.key_id): VerifyKey(KEY.verify_key, valid_until_ts=LATER_MS) for server in SERVERS}


def signed(
    version: RoomVersion, pdu: Mapping[str, Any], signers: Mapping[str, SigningKey], *, hashed: bool = True
) -> dict[str, Any]:
    """Return the PDU with only these signatures. hashed: True for the right content hash, False to keep its own."""
    result = {key: value for key, value in pdu.items() if key != "signatures"}
    if hashed:
        result["hashes"] = {"sha256": encode_unpadded(content_hash(result))}
    result["signatures"] = {}
    for server, key in signers.items():
        result = sign_pdu(version, result, server, key)
    return result


def changed(version: RoomVersion, event: Event, content: Mapping[str, Any] | None = None, **fields: Any) -> Event:
    """Return the event with other content or fields, hashed and signed again by the sender's server."""
    pdu = {**event.pdu, **fields}
    if content is not None:
        pdu["content"] = dict(content)
    return parse_event(version, signed(version, pdu, {pdu["sender"].partition(":")[2]: KEY}))
