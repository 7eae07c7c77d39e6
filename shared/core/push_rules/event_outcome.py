"""What one event counts, for the groups of a room and for single users."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """thread_id: the thread in which the event counts, "" the main timeline.

    groups: those that it notifies: (group, notifies, highlights), 0 or 1 each. users: those for whom it counts
    otherwise: (user id, notifies, highlights), -1, 0 or 1 each, to be added to his group's; for one who is not joined,
    to nothing. moved: (user id, group) in which users are from this event on. is_mark: its sender is a user of ours who
    has read up to here by it, which must be noted.
    """

    thread_id: str = ""
    groups: tuple[tuple[int, int, int], ...] = ()
    users: tuple[tuple[str, int, int], ...] = ()
    moved: tuple[tuple[str, int], ...] = ()
    is_mark: bool = False


COUNTS_NOTHING: Final = EventOutcome()
