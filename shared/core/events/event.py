"""The event as a value, parsed from the wire or from storage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.canonical_json import compact, decode_json, decode_json_exactly, encode_canonical
from shared.core.errors import EventFormatError, MatrixError
from shared.core.events.format import (
    check_format,
    check_size,
    is_create,
    reference_ids,
)
from shared.core.events.hashing import event_id_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Event:
    """An event in the format of its room version. Two events are equal if their ids and bytes are.

    room_id: from the wire, or made of the event's own hash for a create event of version 12 on.
    content, pdu: as received; not to be changed. Values in `content` may have the wrong type.
    depth: at least 0.
    origin_server_ts: in ms since 1970, as the sender's server claims.
    prev_event_ids: at most 20.
    auth_event_ids: at most 10 (the hashes of versions 1 and 2 are in `pdu` only).
    redacts: the event id that a redaction names, wherever its room version puts it, or None.
    encoded: the whole PDU in canonical JSON, as stored and as sent to other servers.
    """

    event_id: EventId
    room_id: RoomId
    type: str
    sender: UserId
    state_key: str | None
    content: Mapping[str, Any]
    depth: int
    origin_server_ts: int
    prev_event_ids: tuple[EventId, ...]
    auth_event_ids: tuple[EventId, ...]
    redacts: EventId | None
    pdu: Mapping[str, Any]
    encoded: bytes

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self.event_id == other.event_id and self.encoded == other.encoded

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        # Without the content: reprs end up in logs, and the content is private.
        return f"Event({self.event_id!r}, {self.type!r}, state_key={self.state_key!r}, room_id={self.room_id!r})"


def parse_event(
    version: RoomVersion,
    pdu: Mapping[str, Any] | bytes,
    *,
    encoded: bytes | None = None,
    event_id: EventId | None = None,
) -> Event:
    """Return the event in a PDU whose room version is known, after all checks of its format.

    pdu: the JSON object, or its bytes in any JSON form. Pass bytes if the version is lenient about numbers: orjson
        turns integers beyond 64 bits into floats, which changes the event's hash.
    encoded, event_id: the canonical form and the id, if the caller has computed them.
    Raises EventFormatError naming the field. Hashes and signatures are not checked here (hashing.py, signatures.py).
    """
    if isinstance(pdu, bytes):
        pdu = _decode_pdu(version, pdu)
    if not isinstance(pdu, Mapping):
        raise EventFormatError("event: must be an object")
    check_format(version, pdu)
    if encoded is None:
        encoded = compact(encode_canonical(pdu, may_hold_floats=not version.strict_canonical_json))
    check_size(encoded)
    return _event_of(version, pdu, encoded, event_id or event_id_of(version, pdu))


def event_from_storage(version: RoomVersion, encoded: bytes, event_id: EventId) -> Event:
    """Return the event in bytes that this server stored.

    There are no checks: the bytes must have passed `parse_event` before.
    """
    # The standard library keeps integers of any size, which lenient versions allow.
    pdu = orjson.loads(encoded) if version.strict_canonical_json else json.loads(encoded)
    return _event_of(version, pdu, encoded, event_id)


def _decode_pdu(version: RoomVersion, raw: bytes) -> Any:
    try:
        return decode_json(raw) if version.strict_canonical_json else decode_json_exactly(raw)
    except MatrixError as error:
        raise EventFormatError(f"event: {error.message}") from error


def _event_of(version: RoomVersion, pdu: Mapping[str, Any], encoded: bytes, event_id: EventId) -> Event:
    makes_room = version.room_id_is_create_hash and is_create(pdu)
    room_id: RoomId = RoomId("!" + event_id[1:]) if makes_room else pdu["room_id"]
    content = pdu["content"]
    return Event(
        event_id=event_id,
        room_id=room_id,
        type=pdu["type"],
        sender=pdu["sender"],
        state_key=pdu.get("state_key"),
        content=content,
        depth=pdu["depth"],
        origin_server_ts=pdu["origin_server_ts"],
        prev_event_ids=reference_ids(version, pdu["prev_events"]),
        auth_event_ids=reference_ids(version, pdu["auth_events"]),
        redacts=_redacts_of(version, pdu),
        pdu=pdu,
        encoded=encoded,
    )


def _redacts_of(version: RoomVersion, pdu: Mapping[str, Any]) -> EventId | None:
    """Return the target of a redaction, None for any other event. Spec: rooms/v11, "Moving the redacts property"."""
    if pdu["type"] != "m.room.redaction":
        return None
    redacts = (pdu["content"] if version.redacts_in_content else pdu).get("redacts")
    return EventId(redacts) if isinstance(redacts, str) else None
