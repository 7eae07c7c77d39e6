"""A model of a room that evaluates every event for every member, with the expected counts and the stored rows.

room = RoomModel(random)
room.act()                            # an event, a redaction, a receipt, a change of a user's group, a re-join
room.counts("@a:x", end)              # the naive answer
room.rows                             # what the stream `events` tells a reader
"""

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.rows import NO_DEVICE, EventRow, PushRedacted
from shared.core.unread import Count, RoomCounts, UnreadSnapshot

USERS = (UserId("@a:x"), UserId("@b:x"), UserId("@c:x"))
GROUPS = (0, 7, -5)
THREADS = ("", "$t1", "$t2")


@dataclass
class Judged:
    """An evaluated event.

    outcomes: the counts of each group, for a member without individual counts
    users: the additional counts of single users
    """

    ordinal: int
    thread_id: str
    sender: UserId
    outcomes: dict[int, tuple[int, int]]
    users: dict[str, tuple[int, int]]
    redacted_at: int | None = None
    is_automatic: bool = False


def counted_row(
    ordinal: int,
    *,
    sender: UserId,
    thread_id: str = "",
    txn_device: str | None = None,
    push: tuple[tuple[int, int, int], ...] = (),
    push_users: tuple[tuple[str, int, int], ...] = (),
    push_groups: tuple[tuple[str, int], ...] = (),
    push_redacted: tuple[PushRedacted, ...] = (),
) -> EventRow:
    """Return the row of a message with these counts. Its other fields are irrelevant here."""
    return EventRow(
        position=ordinal,
        writer=1,
        room_nid=1,
        room_id=RoomId("!room:x"),
        room_version="11",
        event_nid=ordinal,
        event_id=EventId(f"$event{ordinal}"),
        ordinal=ordinal,
        type="m.room.message",
        state_key=None,
        sender=sender,
        origin_server_ts=0,
        status=0,
        replaces_nid=None,
        redacted_by=None,
        txn_device=txn_device,
        txn_id=None,
        json=b"{}",
        thread_id=thread_id,
        push=push,
        push_users=push_users,
        push_groups=push_groups,
        push_redacted=push_redacted,
    )


@dataclass
class RoomModel:
    random: Random
    events: list[Judged] = field(default_factory=list)
    rows: list[EventRow] = field(default_factory=list)
    #: user -> (from ordinal, group)
    groups: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(lambda: [(0, 0)]))
    #: user -> (thread or None, ordinal)
    receipts: dict[str, list[tuple[str | None, int]]] = field(default_factory=lambda: defaultdict(list))
    joins: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    totals: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return len(self.rows)

    def act(self) -> str:
        """Do a random action; return its description."""
        choice = self.random.random()
        if choice < 0.62 or not self.events:
            self.add_event()
            return "event"
        if choice < 0.72:
            self.add_redaction()
            return "event"
        if choice < 0.78:
            user = self.random.choice(USERS)
            self.pending[user] = self.random.choice(GROUPS)
            return "rules"
        if choice < 0.82:
            user = self.random.choice(USERS)
            self.joins[user].append(self._row(Judged(self.last + 1, "", user, {}, {})).ordinal)
            return f"join {user}"
        user, thread_id = self.random.choice(USERS), self.random.choice((None, *THREADS))
        self.receipts[user].append((thread_id, self.random.randint(1, self.last)))
        return f"receipt {user}"

    def add_event(self) -> None:
        random = self.random
        outcomes = {}
        for group in GROUPS:
            notifies = int(random.random() < 0.7)
            outcomes[group] = (notifies, notifies * int(random.random() < 0.3))
        event = Judged(self.last + 1, random.choice(THREADS), random.choice(USERS), outcomes, {})
        event.is_automatic = random.random() < 0.2
        for user in USERS:
            n, h = outcomes[self.pending.get(user, self.groups[user][-1][1])]
            if user == event.sender and event.is_automatic:
                event.users[user] = (-n, -h)
            elif user != event.sender and random.random() < 0.2:
                notifies = random.randint(0, 1)
                event.users[user] = (notifies - n, notifies * random.randint(0, 1) - h)
        self._row(event)

    def add_redaction(self) -> None:
        target = self.random.choice(self.events)
        nothing = dict.fromkeys(GROUPS, (0, 0))
        event = Judged(self.last + 1, "", self.random.choice(USERS), nothing, {})
        if target.redacted_at is not None:
            self._row(event)
            return
        target.redacted_at = event.ordinal
        groups = tuple((group, *outcome) for group, outcome in target.outcomes.items() if outcome[0])
        users = tuple((user, *outcome) for user, outcome in target.users.items() if any(outcome))
        self._row(event, ((target.ordinal, target.thread_id, groups, users),) if groups or users else ())

    def _row(self, event: Judged, redacted: Any = ()) -> Judged:
        moved = tuple(self.pending.items())
        for user, group in moved:
            self.groups[user].append((event.ordinal, group))
        self.pending.clear()
        push = []
        for group, (notifies, highlights) in event.outcomes.items():
            if notifies:
                n, h = self.totals.get((group, event.thread_id), (0, 0))
                self.totals[group, event.thread_id] = total = (n + notifies, h + highlights)
                push.append((group, *total))
        users = tuple((user, *outcome) for user, outcome in event.users.items() if any(outcome))
        self.rows.append(
            counted_row(
                event.ordinal,
                sender=event.sender,
                txn_device=NO_DEVICE if event.is_automatic else "DEVICE",
                thread_id=event.thread_id,
                push=tuple(push),
                push_users=users,
                push_groups=moved,
                push_redacted=redacted,
            )
        )
        self.events.append(event)
        return event

    def group_at(self, user: str, ordinal: int) -> tuple[int, int]:
        """Return (from ordinal, group)."""
        return [one for one in self.groups[user] if one[0] <= ordinal][-1]

    def floor(self, user: str, end: int) -> int:
        joined = max((ordinal for ordinal in self.joins[user] if ordinal <= end), default=0)
        return max([joined, *(ordinal for thread, ordinal in self.receipts[user] if thread is None)])

    def read_by_sending(self, user: str, thread_id: str) -> list[int]:
        """Return the ordinals of the user's own events, which mark the thread as read."""
        own = (one for one in self.events if one.sender == user and one.thread_id == thread_id)
        return [one.ordinal for one in own if not one.is_automatic]

    def mark(self, user: str, thread_id: str, end: int) -> int:
        own = (ordinal for ordinal in self.read_by_sending(user, thread_id) if ordinal <= end)
        read = (ordinal for thread, ordinal in self.receipts[user] if thread == thread_id)
        return max([self.floor(user, end), *own, *read])

    def counts(self, user: str, end: int) -> RoomCounts:
        """Count by evaluating every event up to an ordinal."""
        found: dict[str, Count] = {}
        for event in self.events[:end]:
            if event.redacted_at is not None and event.redacted_at <= end:
                continue
            if event.ordinal <= self.mark(user, event.thread_id, end):
                continue
            n, h = event.outcomes.get(self.group_at(user, event.ordinal)[1], (0, 0))
            own_n, own_h = event.users.get(user, (0, 0))
            before = found.get(event.thread_id, Count(0, 0))
            found[event.thread_id] = Count(before.notifications + n + own_n, before.highlights + h + own_h)
        threads = {thread: count for thread, count in found.items() if thread and any(count)}
        return RoomCounts(found.get("", Count(0, 0)), threads)

    def highlights(self, group: int, thread_id: str, end: int) -> int:
        return sum(event.outcomes.get(group, (0, 0))[1] for event in self.events[:end] if event.thread_id == thread_id)

    def found(self, user: str, end: int) -> UnreadSnapshot:
        """Return the result of reading the tables."""
        counts, (first, group), floor = self.counts(user, end), self.group_at(user, end), self.floor(user, end)
        marks = {thread: self.mark(user, thread, end) for thread in THREADS}
        marks = {thread: mark for thread, mark in marks.items() if mark > floor}
        all_counts = {"": counts.main, **counts.threads}
        return UnreadSnapshot(
            at=end,
            floor=floor,
            marks=marks,
            group=group,
            group_from=first,
            counts={thread: count for thread, count in all_counts.items() if any(count)},
            highlights={thread: self.highlights(group, thread, end) for thread in ("", *counts.threads)},
        )
