"""Content hash, reference hash, and the ids made of the latter.

Spec: server-server API, "Signing Events"; rooms/v3, v4, v12.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from shared.core.canonical_json import (
    decode_unpadded,
    encode_canonical,
    encode_unpadded,
    encode_unpadded_urlsafe,
)
from shared.core.errors import EventFormatError
from shared.core.events.redaction import redact_pdu
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import EventIdFormat, RoomVersion

_NOT_IN_CONTENT_HASH = ("unsigned", "signatures", "hashes")


def content_hash(pdu: Mapping[str, Any], *, may_hold_floats: bool = True) -> bytes:
    """Return the SHA-256 (32 bytes) of the event without `unsigned`, `signatures` and `hashes`.

    The event carries it as unpadded base64 in `hashes.sha256`. Raises EventFormatError if the event has no JSON form.
    """
    covered = {key: value for key, value in pdu.items() if key not in _NOT_IN_CONTENT_HASH}
    return hashlib.sha256(encode_canonical(covered, may_hold_floats=may_hold_floats)).digest()


def has_right_content_hash(pdu: Mapping[str, Any]) -> bool:
    """Return True if `hashes.sha256` is right. If it is wrong, the receiver keeps only the redacted event.

    Spec: server-server API, "Validating hashes and signatures on received events".
    """
    hashes = pdu.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    if not isinstance(claimed, str):
        return False
    try:
        return decode_unpadded(claimed) == content_hash(pdu)
    except ValueError:
        return False


def redacted_bytes(version: RoomVersion, pdu: Mapping[str, Any], *, may_hold_floats: bool = True) -> bytes:
    """Return the canonical redacted event without signatures, which servers sign and hash for the event id."""
    redacted = redact_pdu(version, pdu)
    redacted.pop("signatures", None)
    return encode_canonical(redacted, may_hold_floats=may_hold_floats)


def reference_hash(version: RoomVersion, pdu: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 (32 bytes) that identifies the event, redacted or not.

    Spec: server-server API, "Calculating the reference hash for an event".
    """
    return hashlib.sha256(redacted_bytes(version, pdu)).digest()


def event_id_of(version: RoomVersion, pdu: Mapping[str, Any]) -> EventId:
    """Return the event's id: its `event_id` in room versions 1 and 2, else "$" and the reference hash.

    Raises EventFormatError if the field is missing or the event has no JSON form.
    """
    if version.event_id_format is EventIdFormat.ON_WIRE:
        event_id = pdu.get("event_id")
        if not isinstance(event_id, str):
            raise EventFormatError("event_id: must be a string")
        return EventId(event_id)
    return event_id_of_hash(version, reference_hash(version, pdu))


def event_id_of_hash(version: RoomVersion, digest: bytes) -> EventId:
    """Return the event id for a reference hash. Not for room versions 1 and 2."""
    urlsafe = version.event_id_format is EventIdFormat.HASH_URLSAFE
    return EventId("$" + (encode_unpadded_urlsafe(digest) if urlsafe else encode_unpadded(digest)))


def room_id_of_create(version: RoomVersion, pdu: Mapping[str, Any]) -> RoomId:
    """Return the id of the room that this `m.room.create` event creates.

    From version 12 on it is the event's id with "!" in place of "$" (rooms/v12), before that the event's `room_id`.
    Raises EventFormatError if that is missing.
    """
    if version.room_id_is_create_hash:
        return RoomId("!" + event_id_of(version, pdu)[1:])
    room_id = pdu.get("room_id")
    if not isinstance(room_id, str):
        raise EventFormatError("room_id: must be a string")
    return RoomId(room_id)
