"""Building of this server's own events: fields, hash, signature, id.

Spec: server-server API, "Adding hashes and signatures to outgoing events".
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from shared.core.canonical_json import check_strict_numbers, compact, encode_canonical, encode_unpadded
from shared.core.errors import EventFormatError, MatrixError, bad_json
from shared.core.events.event import Event, parse_event
from shared.core.events.format import MAX_EVENT_BYTES
from shared.core.events.hashing import content_hash, event_id_of_hash, redacted_bytes
from shared.core.identifiers import MAX_ID_BYTES, EventId, RoomId, UserId, within_bytes
from shared.core.room_versions import EventIdFormat, RoomVersion
from shared.core.signing import SigningKey
from shared.core.sticky_events import STICKY_KEY


def build_event(
    version: RoomVersion,
    *,
    room_id: RoomId | None,
    sender: UserId,
    type: str,
    state_key: str | None,
    content: Mapping[str, Any],
    prev_event_ids: Sequence[EventId],
    auth_event_ids: Sequence[EventId],
    depth: int,
    origin_server_ts: int,
    redacts: EventId | None = None,
    signing_key: SigningKey,
    server_name: str,
    event_id_localpart: str | None = None,
    reference_hashes: Mapping[str, bytes] | Mapping[EventId, bytes] | None = None,
    sticky_ms: int | None = None,
) -> Event:
    """Return a new event in the format of its room version, hashed and signed by this server.

    room_id: None only for the create event of a room whose id is that event's hash (version 12 on).
    depth: greatest depth of the previous events plus one. It is cut to the version's limit.
    redacts: for `m.room.redaction`; put where the version has it. If None it is taken from the content, since clients
        write it there in every version (spec: room_send.yaml).
    event_id_localpart: random text for the id in room versions 1 and 2; unused elsewhere.
    reference_hashes: event id -> reference hash (32 bytes) of each previous and auth event, for versions 1 and 2.
    sticky_ms: how long the event is sticky (MSC4354), or None if it is not.
    Raises MatrixError M_TOO_LARGE (413) if the event or one of its fields is too large, M_BAD_JSON if this version
    does not allow the content.
    """
    _check_client_input(version, type, state_key, content)
    pdu: dict[str, Any] = {
        "auth_events": _references(version, auth_event_ids, reference_hashes),
        "content": dict(content),  # a copy: the event outlives the request
        "depth": min(depth, version.max_depth),
        "origin_server_ts": origin_server_ts,
        "prev_events": _references(version, prev_event_ids, reference_hashes),
        "sender": sender,
        "type": type,
    }
    if room_id is not None:
        pdu["room_id"] = room_id
    if state_key is not None:
        pdu["state_key"] = state_key
    if version.event_id_format is EventIdFormat.ON_WIRE:
        if not event_id_localpart:
            raise ValueError("events of this room version need a random localpart for their id")
        pdu["event_id"] = f"${event_id_localpart}:{server_name}"
    if type == "m.room.redaction":
        _place_redacts(version, pdu, redacts)
    if sticky_ms is not None:
        pdu[STICKY_KEY] = {"duration_ms": sticky_ms}
    return _finish(version, pdu, server_name, signing_key)


def _finish(version: RoomVersion, pdu: dict[str, Any], server_name: str, key: SigningKey) -> Event:
    """Hash, sign and encode the PDU. Signature and id come from the same redacted bytes, computed once."""
    floats = not version.strict_canonical_json
    try:
        pdu["hashes"] = {"sha256": encode_unpadded(content_hash(pdu, may_hold_floats=floats))}
        covered = redacted_bytes(version, pdu, may_hold_floats=floats)
        pdu["signatures"] = {server_name: {key.key_id: encode_unpadded(key.sign(covered))}}
        encoded = compact(encode_canonical(pdu, may_hold_floats=floats))
        if len(encoded) > MAX_EVENT_BYTES:
            raise _too_large(f"the event has {len(encoded)} bytes; the limit is {MAX_EVENT_BYTES}")
        if version.event_id_format is EventIdFormat.ON_WIRE:
            event_id = pdu["event_id"]
        else:
            event_id = event_id_of_hash(version, hashlib.sha256(covered).digest())
        return parse_event(version, pdu, encoded=encoded, event_id=event_id)
    except EventFormatError as error:
        raise bad_json(f"Not a valid event: {error}") from error


def _check_client_input(
    version: RoomVersion, event_type: str, state_key: str | None, content: Mapping[str, Any]
) -> None:
    # In bytes for every room version: the lenient limits of old versions are for events that exist already.
    for field, text in (("type", event_type), ("state_key", state_key or "")):
        if not within_bytes(text):
            raise _too_large(f"{field} must not be longer than {MAX_ID_BYTES} bytes")
    if version.strict_canonical_json:
        try:
            check_strict_numbers(content)
        except EventFormatError as error:
            raise bad_json(f"Not a valid event: {error}") from error


def _place_redacts(version: RoomVersion, pdu: dict[str, Any], redacts: EventId | None) -> None:
    if redacts is None:
        named = pdu["content"].get("redacts")
        redacts = EventId(named) if isinstance(named, str) else None
    others = {key: value for key, value in pdu["content"].items() if key != "redacts"}
    if redacts is None:
        return
    if version.redacts_in_content:
        pdu["content"] = {**others, "redacts": redacts}
    else:
        pdu["content"] = others
        pdu["redacts"] = redacts


def _references(
    version: RoomVersion, event_ids: Sequence[EventId], hashes: Mapping[str, bytes] | Mapping[EventId, bytes] | None
) -> list[Any]:
    if not version.references_with_hashes:
        return list(event_ids)
    if hashes is None and event_ids:
        raise ValueError("events of this room version need the reference hashes of the events that they name")
    known = {str(event_id): digest for event_id, digest in (hashes or {}).items()}
    return [[event_id, {"sha256": encode_unpadded(known[event_id])}] for event_id in event_ids]


def _too_large(message: str) -> MatrixError:
    return MatrixError("M_TOO_LARGE", message[0].upper() + message[1:], 413)
