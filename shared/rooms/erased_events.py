"""Events of senders whose account was erased, as whoever was not there gets to see them: stripped as if redacted.

Spec: client-server API, POST /account/deactivate, `erase`. Whether a reader may see an event at all was decided before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.core.visibility import ShownForm, shown_form
from shared.rooms.room_view import RoomView
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import value_before
from shared.storage.accounts.erased_users import get_erased_of_room, get_erased_users
from shared.storage.engine.pool import Database


async def strip_erased(database: Database, room: RoomView, events: Sequence[TimelineEvent]) -> Sequence[TimelineEvent]:
    """Return the events, all of them visible to the reader, those that he may see in the redacted form only as copies.

    What an event replaced (`prev_content`) is stripped likewise. Asks the database only where the reader was not
    joined at an event: who was there sees everything whole.
    """
    view, since = room.view, room.view.joined_throughout_from
    doubtful = [
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
    senders = {event.sender for event in doubtful} | {previous.sender for _, previous in replaced}
    erased = await get_erased_users(database, senders)
    if not erased:
        return events
    copies: dict[int, TimelineEvent] = {}
    for event in doubtful:
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
    return [copies.get(event.event_nid, event) for event in events]


async def erased_in(database: Database, room: RoomView) -> dict[str, int]:
    """Return user id -> when he was erased, of all who may have sent what a reader of the room's state gets."""
    return await get_erased_of_room(database, room.room_nid)


def strip_state(room: RoomView, erased: Mapping[str, int], event: TimelineEvent) -> TimelineEvent:
    """Strip an event of the room's state, of which there may be many: see `strip_erased`. erased: of `erased_in`."""
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
    return event


def _is_redacted(room: RoomView, ordinal: int, before: str | None, after: str | None, erased_ms: int) -> bool:
    """before, after: the reader's membership in the state before an event of an erased sender, and by the event."""
    form = shown_form(
        "world_readable",  # visible to him, by whichever rule
        before,
        False,
        sender_erased=True,
        joined_before_erasure=room.joined_by(ordinal, erased_ms),
        membership_after=after,
    )
    return form is ShownForm.REDACTED
