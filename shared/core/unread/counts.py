"""UnreadRoom counts of one room, as clients see them."""

from collections.abc import Mapping
from typing import NamedTuple


class Count(NamedTuple):
    """UnreadRoom events that notify, and those of them that highlight."""

    notifications: int
    highlights: int

    def as_json(self) -> dict[str, int]:
        """Return the count in the form of /sync. Spec: GET /sync, UnreadNotificationCounts."""
        return {"notification_count": self.notifications, "highlight_count": self.highlights}


class RoomCounts(NamedTuple):
    """One user's counts in one room.

    main: of the main timeline.
    threads: by the event id of the thread's root, only those with a count above 0.
    """

    main: Count
    threads: Mapping[str, Count]

    @property
    def notifications(self) -> int:
        """The sum over the main timeline and all threads, for clients without support for threads."""
        return self.main.notifications + sum(count.notifications for count in self.threads.values())

    @property
    def highlights(self) -> int:
        return self.main.highlights + sum(count.highlights for count in self.threads.values())

    @property
    def all(self) -> Count:
        return Count(self.notifications, self.highlights)
