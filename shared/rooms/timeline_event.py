"""One event as a synchrotron keeps it: encoded once for all clients, with the parts of `unsigned` beside it.

Architecture page, section 6: what is the same for everyone is bytes; `unsigned` is put together per answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from shared.core.canonical_json import encode_canonical
from shared.core.events.event import Event, event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.events.relation import Relation, relation_of
from shared.core.history_point import HistoryPoint
from shared.core.room_versions import RoomVersion
from shared.core.rows import EventRow
from shared.core.sticky_events import sticky_of_pdu
from shared.core.wire.client_event import client_body, redacted_fields
from shared.storage.events.timeline import TimelineRow

MEMBER = "m.room.member"
HISTORY_VISIBILITY = "m.room.history_visibility"
#: An event's objects without its texts, by tracemalloc; the texts' lengths come on top.
_EVENT_BYTES = 900


@dataclass(frozen=True, slots=True)
class Previous:
    """The state event that another one replaced. content: its JSON, encoded. ordinal 0: it is in no timeline."""

    event_id: str
    ordinal: int
    sender: str
    content: bytes
    membership: str | None


@dataclass(slots=True, eq=False)
class TimelineEvent:
    """Shared by every answer; only `redact` changes it.

    ordinal, back: its place; of history the anchor and the steps back from it, for live events (ordinal, 0).
    ordinal 0: it is in no timeline, only in the state. gap: when it came, events before it were missing.
    state_nid: snapshot of the state before it, if it was read from Postgres and has one.
    body: the client event without `room_id` and `unsigned`. membership: of an m.room.member event only.
    redacted_because: the redaction as a client event, encoded. previous: what it replaced, for `unsigned`.
    sticky_ms: for how long, of a sticky event (MSC4354).
    """

    event_nid: int
    event_id: str
    writer: int
    position: int
    ordinal: int
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    body: bytes
    replaces_nid: int | None
    txn_device: str | None
    txn_id: str | None
    membership: str | None
    visibility: str | None
    gap: bool = False
    redacted_because: bytes | None = None
    previous: Previous | None = None
    back: int = 0
    state_nid: int | None = None
    relation: Relation | None = None
    sticky_ms: int | None = None

    @property
    def place(self) -> HistoryPoint:
        return HistoryPoint(self.ordinal, -self.back)

    @property
    def key(self) -> tuple[str, str] | None:
        """(type, state key) of a state event."""
        return None if self.state_key is None else (self.type, self.state_key)

    @property
    def size_bytes(self) -> int:
        redaction = len(self.redacted_because) if self.redacted_because is not None else 0
        previous = len(self.previous.content) if self.previous is not None else 0
        return _EVENT_BYTES + len(self.body) + redaction + previous

    def content(self) -> Any:
        """The content, decoded: for filters that look into it."""
        return orjson.loads(self.body)["content"]

    def as_previous(self) -> Previous:
        return Previous(self.event_id, self.ordinal, self.sender, orjson.dumps(self.content()), self.membership)

    def redact(self, version: RoomVersion, redaction: bytes) -> None:
        """Take away what the redaction takes away. redaction: its client event, encoded, without room_id."""
        self.strip(version)
        self.redacted_because = redaction

    def strip(self, version: RoomVersion) -> None:
        """Take away what a redaction would, as for a sender who was erased."""
        fields = redacted_fields(orjson.loads(self.body), version)
        self.body = _dump(fields)
        self.membership, self.visibility = _readings(self.type, fields["content"])
        self.relation = None
        self.sticky_ms = None

    def strip_previous(self, version: RoomVersion) -> None:
        """The same of what it replaced."""
        if self.previous is not None:
            fields = {"type": self.type, "content": orjson.loads(self.previous.content)}
            content = _dump(redacted_fields(fields, version)["content"])
            self.previous = replace(self.previous, content=content)


def event_from_stream(version: RoomVersion, row: EventRow) -> TimelineEvent:
    """Return the event of a row that came through replication; what it replaced is not known yet."""
    return _build(version, event_from_storage(version, row.json, row.event_id), row)


def event_from_row(version: RoomVersion, row: TimelineRow) -> TimelineEvent:
    """Return the event that was read from Postgres, redacted where a redaction applies."""
    event = _build(version, event_from_storage(version, row.json, row.event_id), row)
    event.back, event.state_nid = row.back, row.state_nid
    if row.redaction_id is not None and row.redaction_json is not None:
        redaction = event_from_storage(version, row.redaction_json, row.redaction_id)
        event.redact(version, client_body(redaction, version))
    if row.previous_id is not None and row.previous_json is not None:
        pdu = event_from_storage(version, row.previous_json, row.previous_id)
        content: Mapping[str, Any] = pdu.content
        if row.previous_redacted:
            content = redact_pdu(version, pdu.pdu)["content"]
        event.previous = Previous(
            row.previous_id, row.previous_ordinal or 0, pdu.sender, _dump(content), _readings(pdu.type, content)[0]
        )
    return event


def event_of(version: RoomVersion, row: TimelineRow | EventRow) -> Event:
    """Return the whole event, for the slow ways (federation format, stripped state)."""
    return event_from_storage(version, row.json, row.event_id)


def _build(version: RoomVersion, event: Event, row: EventRow | TimelineRow) -> TimelineEvent:
    membership, visibility = _readings(event.type, event.content) if event.is_state else (None, None)
    sticky_ms = None if (sticky := sticky_of_pdu(event.pdu)) is None else sticky["duration_ms"]
    return TimelineEvent(
        row.event_nid, row.event_id, row.writer, row.position, row.ordinal, event.type, event.state_key, event.sender,
        event.origin_server_ts, client_body(event, version), row.replaces_nid, row.txn_device, row.txn_id,
        membership, visibility, row.gap, relation=relation_of(event.content), sticky_ms=sticky_ms,
    )  # fmt: skip


def _readings(event_type: str, content: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return (membership, history visibility) of the content, each for its own event type only."""
    if event_type == MEMBER:
        value = content.get("membership")
        return (value if isinstance(value, str) else "leave"), None
    if event_type == HISTORY_VISIBILITY:
        value = content.get("history_visibility")
        return None, (value if isinstance(value, str) else "shared")
    return None, None


def _dump(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits in rooms of old versions
        return encode_canonical(value)
