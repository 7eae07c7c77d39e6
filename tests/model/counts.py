"""Unread counts read naively: every event of a room, for one member. Spec: "Receiving notifications"."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MAIN = "main"


@dataclass(slots=True)
class Judged:
    """One event. outcomes: by the members that were joined (or are invited by it), with their rules at that time;
    ignored_by: who of them ignored its sender then.
    """

    event: dict[str, Any]
    thread: str
    outcomes: dict[str, tuple[int, int]]
    ignored_by: frozenset[str]
    redacted: bool = False

    def outcome(self, user_id: str) -> tuple[int, int]:
        """Return (notifies, highlights) for a user, as things are now."""
        if self.redacted or user_id in self.ignored_by or user_id == self.event["sender"]:
            return 0, 0
        return self.outcomes.get(user_id, (0, 0))


@dataclass(slots=True)
class Reading:
    """One user in one room. receipts: thread ("" for unthreaded) -> index of the event, of either kind."""

    joined_at: int = -1
    receipts: dict[str, int] = field(default_factory=dict)


def marks(events: list[Judged], user_id: str, reading: Reading) -> dict[str, int]:
    """Return the index of the last event that the user has read, by thread."""
    floor = max(reading.joined_at, reading.receipts.get("", -1))
    found = {each.thread: max(floor, reading.receipts.get(each.thread, -1)) for each in events}
    for index, each in enumerate(events):
        if each.event["sender"] == user_id:
            found[each.thread] = max(found[each.thread], index)
    return found


def count(events: list[Judged], user_id: str, reading: Reading) -> dict[str, tuple[int, int]]:
    """Return (notifications, highlights) by thread; "main" always, others only where above 0."""
    found: Counter[str] = Counter()
    loud: Counter[str] = Counter()
    read = marks(events, user_id, reading)
    for index, each in enumerate(events):
        if index > read[each.thread]:
            notifies, highlights = each.outcome(user_id)
            found[each.thread] += notifies
            loud[each.thread] += highlights
    counts = {thread: (number, loud[thread]) for thread, number in found.items() if number}
    counts.setdefault(MAIN, (0, 0))
    return counts
