"""Naive unread counts: every event of a room, for one member. Spec: "Receiving notifications"."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MAIN = "main"


@dataclass(slots=True)
class Judged:
    """An event and its evaluation with the rules of that time.

    outcomes: user id -> (notifies, highlights), for users who were joined or whom the event invites
    ignored_by: those of them who ignored the sender
    """

    event: dict[str, Any]
    thread: str
    outcomes: dict[str, tuple[int, int]]
    ignored_by: frozenset[str]
    redacted: bool = False

    def outcome(self, user_id: str) -> tuple[int, int]:
        """Return (notifies, highlights) for a user, considering later redactions."""
        if self.redacted or user_id in self.ignored_by or user_id == self.event["sender"]:
            return 0, 0
        return self.outcomes.get(user_id, (0, 0))


@dataclass(slots=True)
class Reading:
    """The read positions of one user in one room.

    receipts: thread ("" for unthreaded) -> index of the event, for public and private receipts
    """

    joined_at: int = -1
    receipts: dict[str, int] = field(default_factory=dict)


def marks(events: list[Judged], user_id: str, reading: Reading) -> dict[str, int]:
    """Return thread -> index of the last event that the user has read."""
    floor = max(reading.joined_at, reading.receipts.get("", -1))
    found = {each.thread: max(floor, reading.receipts.get(each.thread, -1)) for each in events}
    for index, each in enumerate(events):
        if each.event["sender"] == user_id:
            found[each.thread] = max(found[each.thread], index)
    return found


def count(events: list[Judged], user_id: str, reading: Reading) -> dict[str, tuple[int, int]]:
    """Return thread -> (notifications, highlights). "main" is always there, other threads only above 0."""
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
