"""PURE: the form of an event in one answer to one client."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.filters import EventFilter
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import NO_DEVICE
from shared.core.wire.client_event import join_client_event
from shared.http.request import Requester
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint

_CLOCK_SKEW_MS = 5_000  # between the process that logged a device in and the one that takes its events


@dataclass(frozen=True, slots=True)
class Reader:
    """The user and device that get the answer."""

    user_id: UserId
    device_id: str | None
    now_ms: int
    event_fields: tuple[tuple[str, ...], ...] | None = None  # the paths to keep; None: all
    device_created_ms: int = 0  # events from before are those of an earlier device with the same id

    @classmethod
    def of(cls, requester: Requester, now_ms: int) -> "Reader":
        """Return the reader who sent a request."""
        return cls(requester.user_id, requester.device_id, now_ms, device_created_ms=requester.device_created_ms)


def shown_event(
    event: TimelineEvent,
    reader: Reader,
    view: Viewpoint,
    *,
    room_id: RoomId | None = None,
    in_state: bool = False,
    pdu: Mapping[str, Any] | None = None,
    relations: Mapping[str, Any] | None = None,
) -> orjson.Fragment:
    """Return the event for this reader.

    room_id: None where events have no room id (/sync).
    in_state: True for an event of the room's state. It gets no `unsigned.membership`.
    pdu: the federation format, to show instead of the client format (`event_format`). It gets an `event_id` beside,
        which clients need and newer room versions leave out.
    relations: the bundled aggregations for this reader (`m.relations`).
    Spec: client-server API, "Room event format", UnsignedData.
    """
    unsigned: dict[str, Any] = {}
    if event.txn_id is not None and event.sender == reader.user_id:
        is_of_device = event.txn_device == reader.device_id and reader.device_id is not None
        if is_of_device and event.origin_server_ts >= reader.device_created_ms - _CLOCK_SKEW_MS:
            unsigned["transaction_id"] = event.txn_id
        if event.txn_device == NO_DEVICE:
            unsigned |= {"delay_id": event.txn_id, "org.matrix.msc4140.delay_id": event.txn_id}
    if event.sticky_ms is not None:
        ttl_ms = min(event.origin_server_ts, reader.now_ms) + event.sticky_ms - reader.now_ms
        if ttl_ms > 0:
            unsigned["msc4354_sticky_duration_ttl_ms"] = ttl_ms
    if event.previous is not None:
        unsigned["replaces_state"] = event.previous.event_id
        if view.may_see_at(event.previous.ordinal):
            unsigned["prev_content"] = orjson.Fragment(event.previous.content)
    if event.redacted_because is not None:
        # Clients must learn of the redaction, but its words are for those only who may see it.
        seen = view.may_see_at(event.redacted_because.ordinal)
        because = event.redacted_because if seen else event.redacted_because.stripped()
        unsigned["redacted_because"] = orjson.Fragment(join_client_event(because.body, room_id=room_id, unsigned=None))
    if relations:
        unsigned["m.relations"] = relations
    # Nearly every event has these two fields only, so they are written without orjson.
    encoded = b'{"age":%d' % max(0, reader.now_ms - event.origin_server_ts)
    if not in_state:
        encoded += _membership(view.membership_after(event))
    encoded += b"," + orjson.dumps(unsigned)[1:] if unsigned else b"}"
    if pdu is not None:
        encoded = orjson.dumps({**pdu, "event_id": event.event_id, "unsigned": orjson.Fragment(encoded)})
    else:
        encoded = join_client_event(event.body, room_id=room_id, unsigned=encoded)
    if reader.event_fields is not None:
        encoded = orjson.dumps(_keep_fields(orjson.loads(encoded), reader.event_fields))
    return orjson.Fragment(encoded)


@functools.lru_cache(maxsize=16)
def _membership(value: str) -> bytes:
    return b',"membership":' + orjson.dumps(value)


def _keep_fields(event: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """Return the fields that the paths name. Spec: client-server API, "Filtering", event_fields."""
    kept: dict[str, Any] = {}
    for path in paths:
        source: Any = event
        for key in path:
            if not isinstance(source, dict) or key not in source:
                break
            source = source[key]
        else:
            target = kept
            for key in path[:-1]:
                inner = target.setdefault(key, {})
                if not isinstance(inner, dict):
                    break
                target = inner
            else:
                target[path[-1]] = source
    return kept


def matches(wanted: EventFilter, event: TimelineEvent, room_id: RoomId) -> bool:
    """Return True if the event passes a client's filter. The content is decoded only if the filter needs it."""
    if wanted.passes_all:
        return True
    content: Mapping[str, Any] | None = event.content() if wanted.contains_url is not None else None
    rel_type = None if event.relation is None else event.relation.rel_type
    return wanted.match(type=event.type, sender=event.sender, room_id=room_id, content=content, rel_type=rel_type)
