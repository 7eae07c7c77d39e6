"""The unread counts of one event, for the groups of a room and for single users."""

from dataclasses import dataclass
from typing import Final

from shared.core.identifiers import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOutcome:
    """The unread counts of one event.

    thread_id: the thread in which the event counts, "" for the main timeline.
    groups: (group, notifies, highlights), 0 or 1 each, of the groups that the event notifies.
    users: (user id, notifies, highlights), -1, 0 or 1 each, of the users whose counts differ from their group's. It
        is added to the group's counts, or to nothing for users who are not joined.
    group_changes: (user id, group) of the users whose group changes with this event.
    is_mark: True if the event is a new read mark of its sender, a local user.
    """

    thread_id: str = ""
    groups: tuple[tuple[int, int, int], ...] = ()
    users: tuple[tuple[UserId, int, int], ...] = ()
    group_changes: tuple[tuple[UserId, int], ...] = ()
    is_mark: bool = False


COUNTS_NOTHING: Final = EventOutcome()
