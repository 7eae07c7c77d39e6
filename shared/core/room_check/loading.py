"""Loading of a stored room, with checks of each event by itself: JSON, id, columns, hash and own signature."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from shared.core.canonical_json import encode_canonical
from shared.core.errors import EventFormatError, SignatureError
from shared.core.events import Event, parse_event, redact_pdu
from shared.core.events.hashing import has_right_content_hash
from shared.core.events.signatures import required_signers, verify_pdu
from shared.core.identifiers import EventId, RoomId, UserId, server_of
from shared.core.room_check.findings import Findings
from shared.core.room_check.stored_room import EventColumns, Node, StoredRoom
from shared.core.signing import signatures_of

#: The keys that rules and resolution read of these types' content, None for all keys. They read no other types.
_READ: Mapping[str, frozenset[str] | None] = {
    "m.room.create": None,
    "m.room.power_levels": None,
    "m.room.join_rules": None,
    "m.room.third_party_invite": None,
    "m.room.member": frozenset({"membership", "join_authorised_via_users_server", "third_party_invite"}),
}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class RoomLoader:
    """Adds stored events to a room.

    server_name: this server.
    verify_keys: key id -> public key of this server, to check the signatures of local users' events. None skips this.
    """

    def __init__(
        self, room: StoredRoom, findings: Findings, server_name: str, verify_keys: Mapping[str, bytes] | None
    ) -> None:
        self._room = room
        self._findings = findings
        self._server_name = server_name
        self._keys = verify_keys
        self._texts: dict[Any, Any] = {}

    def add(self, row: EventColumns) -> None:
        """Check an event and add it to the room."""
        room, version = self._room, self._room.version
        try:
            event = parse_event(version, row.json)
        except EventFormatError as error:
            self._findings.add("json", row.event_id, str(error))
            room.damaged = True
            return
        if event.encoded != row.json:
            self._findings.add("json", row.event_id, "is not stored in canonical form")
        self._check_columns(row, event)
        self._check_hashes(event)
        node = Node(
            nid=row.event_nid,
            event=self._slim(event),
            writer=row.writer,
            position=row.position,
            ordinal=row.ordinal,
            status=row.status,
            prev_nids=tuple(row.prev_nids),
            auth_nids=tuple(row.auth_nids),
            replaces_nid=row.replaces_nid,
            redacted_by=row.redacted_by,
            redacts_nid=row.redacts_nid,
            anchor=row.anchor,
            back=row.back,
            state_nid=row.state_nid,
            resolved=row.resolved,
            gap=row.gap,
        )
        if row.redacted_by is not None and event.type in _READ and event.is_state:
            node.redacted = self._slim(parse_event(version, redact_pdu(version, event.pdu), event_id=event.event_id))
        room.add(node)

    def _check_columns(self, row: EventColumns, event: Event) -> None:
        if row.event_id != event.event_id:
            self._findings.add("event_id", row.event_id, f"the event's hash gives {event.event_id}")
        if event.room_id != self._room.room_id:
            self._findings.add("column", row.event_id, f"room: the event is of {event.room_id}")
        for name in ("type", "state_key", "sender", "depth", "origin_server_ts"):
            stored, own = getattr(row, name), getattr(event, name)
            if stored != own:
                self._findings.add("column", row.event_id, f"{name}: stored is {stored!r}, the event has {own!r}")

    def _check_hashes(self, event: Event) -> None:
        version = self._room.version
        # If an event arrived with a wrong hash, only the redacted form is stored.
        if not has_right_content_hash(event.pdu) and encode_canonical(redact_pdu(version, event.pdu)) != event.encoded:
            self._findings.add("content_hash", event.event_id, "the content hash is wrong")
        if self._keys is None or server_of(event.sender) != self._server_name:
            return
        if self._server_name not in required_signers(version, event):
            return
        known = [key_id for key_id in signatures_of(event.pdu, self._server_name) if key_id in self._keys]
        if not known:
            self._findings.add("signature", event.event_id, "has no signature by a known key of this server")
        for key_id in known:
            try:
                verify_pdu(version, event.pdu, self._server_name, key_id, self._keys[key_id])
            except SignatureError:
                self._findings.add("signature", event.event_id, f"the signature by {key_id} is wrong")

    def _slim(self, event: Event) -> Event:
        """Return the event with only the content that is read here. Equal texts of the room's events are shared."""
        content: Mapping[str, Any] = _NOTHING
        pdu: Mapping[str, Any] = _NOTHING
        if event.type in _READ:
            read = _READ[event.type]
            content = event.content if read is None else {k: v for k, v in event.content.items() if k in read}
            if event.type == "m.room.create":
                pdu = event.pdu
            elif "join_authorised_via_users_server" in content:
                pdu = {"signatures": event.pdu["signatures"]}
        share = self._texts.setdefault
        return replace(
            event,
            event_id=EventId(share(event.event_id, event.event_id)),
            room_id=RoomId(share(event.room_id, event.room_id)),
            type=share(event.type, event.type),
            sender=UserId(share(event.sender, event.sender)),
            state_key=None if event.state_key is None else share(event.state_key, event.state_key),
            content=content,
            prev_event_ids=tuple(share(text, text) for text in event.prev_event_ids),
            auth_event_ids=tuple(share(text, text) for text in event.auth_event_ids),
            pdu=pdu,
            encoded=b"",
        )
