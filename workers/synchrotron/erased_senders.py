"""Events of senders whose account was erased, as whoever was not there gets to see them: stripped as if redacted.

Spec: client-server API, POST /account/deactivate, `erase`. Whether a reader may see an event at all was decided before.
"""

from collections.abc import Sequence

from shared.core.visibility import ShownForm, shown_form
from shared.storage.erased_users import get_erased_users
from shared.storage.pool import Database
from workers.synchrotron.room_view import RoomView
from workers.synchrotron.timeline_event import MEMBER, TimelineEvent


async def strip_erased(database: Database, room: RoomView, events: Sequence[TimelineEvent]) -> None:
    """Strip those of the events, all of them visible to the reader, that he may see in the redacted form only.

    Asks the database only where the reader was not joined at an event: who was there sees everything whole.
    """
    view, since = room.view, room.view.joined_throughout_from
    doubtful = [
        event
        for event in events
        if (event.state_nid is not None or since is None or event.ordinal <= since)
        and view.membership_before(event) != "join"
    ]
    if not doubtful:
        return
    erased = await get_erased_users(database, {event.sender for event in doubtful})
    for event in doubtful:
        if event.sender not in erased:
            continue
        own = event.type == MEMBER and event.state_key == view.user_id
        form = shown_form(
            "world_readable",  # visible to him, by whichever rule
            view.membership_before(event),
            False,
            sender_erased=True,
            joined_before_erasure=room.joined_by(event, erased[event.sender]),
            membership_after=event.membership if own else None,
        )
        if form is ShownForm.REDACTED:
            event.strip(room.version)
