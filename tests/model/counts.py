"""Unread counts read naively: every event of a room, for one member. Spec: "Receiving notifications"."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MAIN = "main"


@dataclass(slots=True)
class Judged:
    """One event. outcomes: by the members that were joined, with their rules at that time; ignored_by: who ignored
    its sender then.
    """

    event: dict[str, Any]
    thread: str
    outcomes: dict[str, tuple[int, int]]
    ignored_by: frozenset[str]
    redacted: bool = False


@dataclass(slots=True)
class Reading:
    """One user in one room. receipts: thread ("" for unthreaded) -> index of the event, of either kind."""

    joined_at: int = -1
    receipts: dict[str, int] = field(default_factory=dict)


def count(events: list[Judged], user_id: str, reading: Reading) -> dict[str, tuple[int, int]]:
    """Return (notifications, highlights) by thread; "main" always, others only where above 0."""
    found: Counter[str] = Counter()
    loud: Counter[str] = Counter()
    own: dict[str, int] = {}
    for index, each in enumerate(events):
        if each.event["sender"] == user_id:
            own[each.thread] = index
    for index, each in enumerate(events):
        marks = (
            reading.joined_at, reading.receipts.get("", -1), reading.receipts.get(each.thread, -1),
            own.get(each.thread, -1),
        )  # fmt: skip
        if index <= max(marks) or each.redacted or user_id in each.ignored_by:
            continue
        notifies, highlights = each.outcomes.get(user_id, (0, 0))
        found[each.thread] += notifies
        loud[each.thread] += highlights
    counts = {thread: (number, loud[thread]) for thread, number in found.items() if number}
    counts.setdefault(MAIN, (0, 0))
    return counts
