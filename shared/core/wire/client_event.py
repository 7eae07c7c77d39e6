"""Events in the form that clients get. Spec: client-server API, "Room event format".

The part that is the same for every viewer is encoded once, without `room_id` and `unsigned`. These differ from answer
to answer and are spliced in as bytes. Architecture page, section 6.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from shared.core.canonical_json import compact, encode_canonical
from shared.core.events.event import Event
from shared.core.events.redaction import redact_pdu
from shared.core.identifiers import RoomId
from shared.core.room_versions import RoomVersion
from shared.core.sticky_events import STICKY_KEY, sticky_of_pdu


def client_fields(event: Event, version: RoomVersion) -> dict[str, Any]:
    """Return the event as clients see it, without `room_id` and `unsigned`.

    Other top-level keys of the PDU are left out, except a sticky event's (MSC4354). A redaction has `redacts` in both
    places, whichever its room version uses, for older and newer clients (rooms/v11, "Moving the redacts property").
    """
    fields: dict[str, Any] = {
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        fields["state_key"] = event.state_key
    if (sticky := sticky_of_pdu(event.pdu)) is not None:
        fields[STICKY_KEY] = sticky
    if event.redacts is not None:
        fields["redacts"] = event.redacts
        if not version.redacts_in_content:
            fields["content"] = {**event.content, "redacts": event.redacts}
    return fields


def redacted_fields(fields: Mapping[str, Any], version: RoomVersion) -> dict[str, Any]:
    """Return `client_fields` of an event after its redaction. Events of erased senders have the same form.

    A redacted redaction keeps `redacts` in both places from version 11 on, and in neither before.
    The redaction event itself belongs in `unsigned` (`redacted_because`).
    """
    redacted = {**fields, "content": redact_pdu(version, fields)["content"]}
    redacted.pop(STICKY_KEY, None)
    if "redacts" not in redacted["content"]:
        redacted.pop("redacts", None)
    return redacted


def client_body(event: Event, version: RoomVersion) -> bytes:
    """Return the JSON object of `client_fields`. It is kept, and passed to `join_client_event` for each answer."""
    fields = client_fields(event, version)
    try:
        return compact(orjson.dumps(fields))
    except TypeError:  # integers beyond 64 bits in rooms of old versions
        return encode_canonical(fields)


def join_client_event(body: bytes, *, room_id: RoomId | None, unsigned: bytes | None) -> bytes:
    """Return the client event made of its body and the parts that belong to one answer.

    body: from `client_body`.
    room_id: None if the answer leaves it out (/sync).
    unsigned: an encoded JSON object, or None for no such key.
    """
    room = b"" if room_id is None else b',"room_id":' + orjson.dumps(room_id)
    if unsigned is None:
        return b"%b%b}" % (body[:-1], room)  # the comma is right, since the body is never "{}"
    return b'%b%b,"unsigned":%b}' % (body[:-1], room, unsigned)
