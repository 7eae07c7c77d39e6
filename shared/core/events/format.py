"""The event format: types, sizes and limits of a PDU's fields.

An event that fails these checks is dropped, not rejected.
Spec: rooms/, "Event format"; client-server API, "Size limits".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.core.canonical_json import check_strict_numbers
from shared.core.errors import EventFormatError
from shared.core.identifiers import (
    MAX_ID_BYTES,
    EventId,
    is_event_id,
    is_room_id_of_hash,
    is_room_id_with_server,
    is_user_id,
    within_bytes,
)
from shared.core.room_versions import EventIdFormat, RoomVersion

MAX_EVENT_BYTES = 65536
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10

_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1


def check_format(version: RoomVersion, pdu: Mapping[str, Any]) -> None:
    """Raise EventFormatError, naming the field, unless the PDU has the format of its room version.

    The size of the whole event is checked by `check_size`, since it needs the encoded form.
    """
    if version.strict_canonical_json:
        check_strict_numbers(pdu)
    _check_sender(pdu.get("sender"))
    _check_text("type", pdu.get("type"), version.limits_in_bytes)
    if "state_key" in pdu:
        _check_text("state_key", pdu["state_key"], version.limits_in_bytes)
    _check_object("content", pdu.get("content"))
    _check_object("hashes", pdu.get("hashes"))
    _check_signatures(pdu.get("signatures"))
    if "unsigned" in pdu:
        _check_object("unsigned", pdu["unsigned"])
    _check_integer("depth", pdu.get("depth"), 0, version.max_depth)
    _check_integer("origin_server_ts", pdu.get("origin_server_ts"), _MIN_INT64, _MAX_INT64)
    _check_references(version, "prev_events", pdu.get("prev_events"), MAX_PREV_EVENTS)
    _check_references(version, "auth_events", pdu.get("auth_events"), MAX_AUTH_EVENTS)
    _check_event_id(version, pdu)
    _check_room_id(version, pdu)
    if not version.redacts_in_content and pdu["type"] == "m.room.redaction" and "redacts" in pdu:
        redacts = pdu["redacts"]
        if not isinstance(redacts, str) or not is_event_id(redacts):
            raise EventFormatError("redacts: must be an event id")


def check_size(encoded: bytes) -> None:
    """Raise EventFormatError if the whole event, signatures included, has more than 65,536 bytes."""
    if len(encoded) > MAX_EVENT_BYTES:
        raise EventFormatError(f"event: must not have more than {MAX_EVENT_BYTES} bytes")


def reference_ids(version: RoomVersion, value: Sequence[Any]) -> tuple[EventId, ...]:
    """Return the event ids in `prev_events` or `auth_events`, whose format has been checked."""
    return tuple(pair[0] for pair in value) if version.references_with_hashes else tuple(value)


def _check_references(version: RoomVersion, field: str, value: Any, limit: int) -> None:
    """Check a list of event ids, or of [id, hashes] pairs in versions 1 and 2."""
    if not isinstance(value, list | tuple):
        raise EventFormatError(f"{field}: must be a list")
    if len(value) > limit:
        raise EventFormatError(f"{field}: must not have more than {limit} entries")
    if version.references_with_hashes and not all(_is_pair(entry) for entry in value):
        raise EventFormatError(f"{field}: must hold pairs of event id and hashes")
    if not all(isinstance(event_id, str) and is_event_id(event_id) for event_id in reference_ids(version, value)):
        raise EventFormatError(f"{field}: must hold event ids")


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], Mapping)


def _check_sender(sender: Any) -> None:
    if not isinstance(sender, str) or not is_user_id(sender):
        raise EventFormatError("sender: must be a user id")


def _check_text(field: str, value: Any, in_bytes: bool) -> None:
    if not isinstance(value, str):
        raise EventFormatError(f"{field}: must be a string")
    if not (within_bytes(value) if in_bytes else len(value) <= MAX_ID_BYTES):
        raise EventFormatError(f"{field}: must not be longer than {MAX_ID_BYTES} bytes")


def _check_object(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise EventFormatError(f"{field}: must be an object")


def _check_signatures(signatures: Any) -> None:
    _check_object("signatures", signatures)
    for by_key in signatures.values():
        if not isinstance(by_key, Mapping) or not all(isinstance(text, str) for text in by_key.values()):
            raise EventFormatError("signatures: must hold an object of strings for each server")


def _check_integer(field: str, value: Any, least: int, greatest: int) -> None:
    if type(value) is not int or not least <= value <= greatest:
        raise EventFormatError(f"{field}: must be an integer from {least} to {greatest}")


def _check_event_id(version: RoomVersion, pdu: Mapping[str, Any]) -> None:
    if version.event_id_format is not EventIdFormat.ON_WIRE:
        return  # an unknown key like any other
    event_id = pdu.get("event_id")
    if not isinstance(event_id, str) or not is_event_id(event_id) or ":" not in event_id:
        raise EventFormatError("event_id: must be an event id with a server name")


def _check_room_id(version: RoomVersion, pdu: Mapping[str, Any]) -> None:
    room_id = pdu.get("room_id")
    if version.room_id_is_create_hash:
        if is_create(pdu):
            return  # an auth rule forbids a room_id on the wire (rooms/v12, rule 1.2)
        right = isinstance(room_id, str) and is_room_id_of_hash(room_id)
    else:
        right = isinstance(room_id, str) and is_room_id_with_server(room_id)
    if not right:
        raise EventFormatError("room_id: must be a room id of this room version")


def is_create(pdu: Mapping[str, Any]) -> bool:
    """Return True if this PDU creates a room."""
    return pdu.get("type") == "m.room.create" and pdu.get("state_key") == ""
