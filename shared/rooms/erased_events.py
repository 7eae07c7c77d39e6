"""Events of erased senders: readers who were not joined at the event get them stripped, as if redacted.

These functions take events that the reader may see. Spec: client-server API, POST /account/deactivate, `erase`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.core.identifiers import UserId
from shared.core.visibility import ShownForm, shown_form
from shared.rooms.room_view import RoomView
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import value_before
from shared.storage.accounts.erased_users import get_erased_of_room, get_erased_users
from shared.storage.engine.pool import Database


async def strip_erased(database: Database, room: RoomView, events: Sequence[TimelineEvent]) -> Sequence[TimelineEvent]:
    """Return the events with stripped copies of those that the reader may see in redacted form only.

    `prev_content` and `redacted_because` are stripped in the same way. Reads the database only if the reader was not
    joined at one of these events.
    """
    view, since = room.view, room.view.joined_throughout_from
    seen_from_outside = [
        event
        for event in events
        if (event.state_nid is not None or since is None or event.ordinal <= since)
        and view.membership_before(event) != "join"
    ]
    replaced = [
        (event, event.previous)
        for event in events
        if event.previous is not None
        and (since is None or event.previous.ordinal <= since)
        and value_before(view.memberships, event.previous.ordinal) != "join"
    ]
    redacted = [
        (event, event.redacted_because)
        for event in events
        if event.redacted_because is not None
        and (since is None or event.redacted_because.ordinal <= since)
        and value_before(view.memberships, event.redacted_because.ordinal) != "join"
    ]
    senders = {event.sender for event in seen_from_outside}
    senders |= {previous.sender for _, previous in replaced} | {redaction.sender for _, redaction in redacted}
    erased = await get_erased_users(database, senders)
    if not erased:
        return events
    copies: dict[int, TimelineEvent] = {}
    for event in seen_from_outside:
        if event.sender in erased:
            own = event.type == MEMBER and event.state_key == view.user_id
            after = event.membership if own else None
            if _is_redacted(room, event.ordinal, view.membership_before(event), after, erased[event.sender]):
                copies.setdefault(event.event_nid, replace(event)).strip(room.version)
    for event, previous in replaced:
        if previous.sender in erased:
            before = value_before(view.memberships, previous.ordinal)
            if _is_redacted(room, previous.ordinal, before, None, erased[previous.sender]):
                copies.setdefault(event.event_nid, replace(event)).strip_previous(room.version)
    for event, redaction in redacted:
        if redaction.sender in erased:
            before = value_before(view.memberships, redaction.ordinal)
            if _is_redacted(room, redaction.ordinal, before, None, erased[redaction.sender]):
                copies.setdefault(event.event_nid, replace(event)).strip_redaction()
    return [copies.get(event.event_nid, event) for event in events]


async def erased_in(database: Database, room: RoomView) -> dict[UserId, int]:
    """Return the erasure times (ms) of all erased users who may have sent state of the room, by user id."""
    return await get_erased_of_room(database, room.room_nid)


def strip_state(room: RoomView, erased: Mapping[UserId, int], event: TimelineEvent) -> TimelineEvent:
    """Strip an event of the room's state in place, by the rules of `strip_erased`. erased: from `erased_in`."""
    if event.sender in erased:
        own = event.type == MEMBER and event.state_key == room.view.user_id
        before = value_before(room.view.memberships, event.ordinal)
        if _is_redacted(room, event.ordinal, before, event.membership if own else None, erased[event.sender]):
            event.strip(room.version)
    previous = event.previous
    if previous is not None and previous.sender in erased:
        before = value_before(room.view.memberships, previous.ordinal)
        if _is_redacted(room, previous.ordinal, before, None, erased[previous.sender]):
            event.strip_previous(room.version)
    redaction = event.redacted_because
    if redaction is not None and redaction.sender in erased:
        before = value_before(room.view.memberships, redaction.ordinal)
        if _is_redacted(room, redaction.ordinal, before, None, erased[redaction.sender]):
            event.strip_redaction()
    return event


def _is_redacted(room: RoomView, ordinal: int, before: str | None, after: str | None, erased_ms: int) -> bool:
    """Return True if the reader gets an event of an erased sender in redacted form.

    before: the reader's membership in the state before the event.
    after: the membership that the event itself gives them.
    """
    form = shown_form(
        "world_readable",  # the reader may see the event, by whichever rule
        before,
        False,
        sender_erased=True,
        joined_before_erasure=room.joined_by(ordinal, erased_ms),
        membership_after=after,
    )
    return form is ShownForm.REDACTED
