"""An event of a timeline in memory: encoded once for all clients, with the parts of `unsigned` beside it.

The part that is the same for everyone is bytes. `unsigned` is made for each answer (`shown_event.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from shared.cache.sizes import optional_size, text_size
from shared.core.canonical_json import compact, encode_canonical
from shared.core.events.event import Event, event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.events.relation import Relation, relation_of
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.rows import EventRow
from shared.core.sticky_events import sticky_of_pdu
from shared.core.wire.client_event import client_body, redacted_fields
from shared.storage.events.timeline import TimelineRow

MEMBER = "m.room.member"
HISTORY_VISIBILITY = "m.room.history_visibility"
#: An event's objects and its numbers and short texts, measured with tracemalloc.
_EVENT_BYTES = 640
_PREVIOUS_BYTES = 350
_RELATION_BYTES = 120
_REDACTION_BYTES = 200


@dataclass(frozen=True, slots=True)
class Previous:
    """The state event that another one replaced."""

    event_id: EventId
    ordinal: int  # 0: it is in no timeline
    sender: UserId
    content: bytes  # JSON
    membership: str | None


@dataclass(frozen=True, slots=True)
class Redaction:
    """The redaction of an event, which readers get within that event, each in the form that they may see."""

    event_nid: int
    ordinal: int  # 0: it is in no timeline
    sender: UserId
    body: bytes  # the redaction as client event, as `TimelineEvent.body`
    version: RoomVersion

    def stripped(self) -> "Redaction":
        """Return the redaction without its reason."""
        return replace(self, body=_dump(redacted_fields(orjson.loads(self.body), self.version)))


@dataclass(slots=True, eq=False, kw_only=True)
class TimelineEvent:
    """An event, shared by all answers. Only a redaction changes it."""

    event_nid: int
    event_id: EventId
    writer: int
    position: int
    ordinal: int  # of history events the anchor; 0: it is in the state, but in no timeline
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    body: bytes  # the client event as JSON, without `room_id` and `unsigned`
    replaces_nid: int | None
    txn_device: str | None
    txn_id: str | None
    membership: str | None  # of m.room.member events only
    visibility: str | None  # of m.room.history_visibility events only
    gap: bool = False  # True if earlier events were missing when it arrived
    redacted_because: Redaction | None = None
    previous: Previous | None = None
    back: int = 0  # of history events the steps back from the anchor
    state_nid: int | None = None  # the snapshot of the state before it, if it has one and was read from Postgres
    relation: Relation | None = None
    sticky_ms: int | None = None  # the duration of a sticky event (MSC4354)
    holders: int = 0  # the places of a room in memory that have it (`CachedRoom`)
    counted_bytes: int = 0  # what it counts in that room's size

    @property
    def point(self) -> HistoryPoint:
        return HistoryPoint(self.ordinal, -self.back)

    @property
    def key(self) -> tuple[str, str] | None:
        """(type, state key) of a state event."""
        return None if self.state_key is None else (self.type, self.state_key)

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        size = _EVENT_BYTES + len(self.body) + text_size(self.type) + text_size(self.sender)
        if self.state_key is not None or self.txn_id is not None:
            size += optional_size(self.state_key, self.txn_id)
        if self.redacted_because is not None:
            size += _REDACTION_BYTES + len(self.redacted_because.body)
        if self.previous is not None:
            size += _PREVIOUS_BYTES + len(self.previous.content)
        if self.relation is not None:
            size += _RELATION_BYTES + optional_size(*self.relation)
        return size

    def content(self) -> Any:
        """Return the decoded content, for filters that need it."""
        return orjson.loads(self.body)["content"]

    def as_previous(self) -> Previous:
        return Previous(self.event_id, self.ordinal, self.sender, _dump(self.content()), self.membership)

    def redact(self, version: RoomVersion, redaction: Redaction) -> None:
        """Redact the event."""
        self.strip(version)
        self.redacted_because = redaction

    def strip(self, version: RoomVersion) -> None:
        """Remove the fields that a redaction removes."""
        fields = redacted_fields(orjson.loads(self.body), version)
        self.body = _dump(fields)
        self.membership, self.visibility = _readings(self.type, fields["content"])
        self.relation = None
        self.sticky_ms = None

    def strip_redaction(self) -> None:
        """Remove the reason of the event's redaction."""
        if self.redacted_because is not None:
            self.redacted_because = self.redacted_because.stripped()

    def strip_previous(self, version: RoomVersion) -> None:
        """Remove the fields that a redaction removes from the content of the replaced event."""
        if self.previous is not None:
            fields = {"type": self.type, "content": orjson.loads(self.previous.content)}
            content = _dump(redacted_fields(fields, version)["content"])
            self.previous = replace(self.previous, content=content)


def event_from_stream(version: RoomVersion, row: EventRow) -> TimelineEvent:
    """Return the event of a row that came by replication. It lacks the event that it replaced."""
    return _build(version, event_from_storage(version, row.json, row.event_id), row)


def event_from_row(version: RoomVersion, row: TimelineRow) -> TimelineEvent:
    """Return the event of a row of Postgres, with its redaction applied."""
    event = _build(version, event_from_storage(version, row.json, row.event_id), row)
    event.back, event.state_nid = row.back, row.state_nid
    if row.redaction_nid is not None and row.redaction_id is not None and row.redaction_json is not None:
        stored = event_from_storage(version, row.redaction_json, row.redaction_id)
        body = client_body(stored, version)
        redaction = Redaction(row.redaction_nid, row.redaction_ordinal, stored.sender, body, version)
        event.redact(version, redaction.stripped() if row.redaction_redacted else redaction)
    if row.previous_id is not None and row.previous_json is not None:
        pdu = event_from_storage(version, row.previous_json, row.previous_id)
        content: Mapping[str, Any] = pdu.content
        if row.previous_redacted:
            content = redact_pdu(version, pdu.pdu)["content"]
        event.previous = Previous(
            event_id=row.previous_id,
            ordinal=row.previous_ordinal or 0,
            sender=pdu.sender,
            content=_dump(content),
            membership=_readings(pdu.type, content)[0],
        )
    return event


def event_of(version: RoomVersion, row: TimelineRow) -> Event:
    """Return the whole event, redacted if its row is."""
    event = event_from_storage(version, row.json, row.event_id)
    if row.redaction_nid is None:
        return event
    return event_from_storage(version, _dump(redact_pdu(version, event.pdu)), row.event_id)


def _build(version: RoomVersion, event: Event, row: EventRow | TimelineRow) -> TimelineEvent:
    membership, visibility = _readings(event.type, event.content) if event.is_state else (None, None)
    sticky_ms = None if (sticky := sticky_of_pdu(event.pdu)) is None else sticky["duration_ms"]
    return TimelineEvent(
        event_nid=row.event_nid,
        event_id=row.event_id,
        writer=row.writer,
        position=row.position,
        ordinal=row.ordinal,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        origin_server_ts=event.origin_server_ts,
        body=client_body(event, version),
        replaces_nid=row.replaces_nid,
        txn_device=row.txn_device,
        txn_id=row.txn_id,
        membership=membership,
        visibility=visibility,
        gap=row.gap,
        relation=relation_of(event.content),
        sticky_ms=sticky_ms,
    )


def _readings(event_type: str, content: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return (membership, history visibility) of the content. Each is None for other event types."""
    if event_type == MEMBER:
        value = content.get("membership")
        return (value if isinstance(value, str) else "leave"), None
    if event_type == HISTORY_VISIBILITY:
        value = content.get("history_visibility")
        return None, (value if isinstance(value, str) else "shared")
    return None, None


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        return compact(orjson.dumps(value))
    except TypeError:  # integers beyond 64 bits in rooms of old versions
        return encode_canonical(value)
