"""Other forms of events: redacted ones, and stubs that have only what the rules read."""

from collections.abc import Mapping

from shared.core.canonical_json import compact, encode_canonical
from shared.core.events import Event, event_from_storage, redact_pdu
from shared.core.events.readers import membership_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion


def redacted(version: RoomVersion, event: Event) -> Event:
    """Return the redacted form of an event."""
    return event_from_storage(version, compact(encode_canonical(redact_pdu(version, event.pdu))), event.event_id)


def membership_in(event: Event) -> str | None:
    """Return the membership that the event sets, None if it is no member event."""
    return membership_of(event) if event.is_state and event.type == "m.room.member" else None


def stub(
    room_id: RoomId, event_id: EventId, user_id: UserId, type: str = "", content: Mapping[str, object] | None = None
) -> Event:
    """Return an event that has only an id, a sender, who is its state key too, and perhaps a content."""
    return Event(
        event_id=event_id,
        room_id=room_id,
        type=type,
        sender=user_id,
        state_key=user_id,
        content=content or {},
        depth=0,
        origin_server_ts=0,
        prev_event_ids=(),
        auth_event_ids=(),
        redacts=None,
        pdu={},
        encoded=b"",
    )
