"""What a client is told of one room's unread events."""

from collections.abc import Mapping
from typing import NamedTuple


class Count(NamedTuple):
    """Unread events that notify, and those of them that highlight."""

    notifications: int
    highlights: int

    def as_json(self) -> dict[str, int]:
        """Return it in the form of /sync. Spec: GET /sync, UnreadNotificationCounts."""
        return {"notification_count": self.notifications, "highlight_count": self.highlights}


class RoomCounts(NamedTuple):
    """One user's counts in one room. threads: by the thread root's event id, only those with a count above 0."""

    main: Count
    threads: Mapping[str, Count]

    @property
    def notifications(self) -> int:
        """Of the main timeline and all threads together: what a client is told that does not know threads."""
        return self.main.notifications + sum(count.notifications for count in self.threads.values())

    @property
    def highlights(self) -> int:
        return self.main.highlights + sum(count.highlights for count in self.threads.values())

    @property
    def all(self) -> Count:
        return Count(self.notifications, self.highlights)
