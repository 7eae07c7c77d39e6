"""The counts of events: the rows that the commit statement stores for a batch, and the totals in its answer.

The statement's parts are in `statement_parts.py`. `migrations/0012_unread_counts.sql` says what the rows mean.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import asyncpg

from shared.core.identifiers import UserId
from shared.core.push_rules.event_outcome import EventOutcome
from shared.core.rows import PushRedacted
from shared.storage.push.statement_parts import (
    GroupChange,
    GroupTotal,
    OwnEvent,
    PushException,
    PushRows,
    PushTotals,
    RedactedEvent,
    RedactedException,
    RedactedTotal,
)

#: (group, notifies, highlights): running totals.
Totals = tuple[tuple[int, int, int], ...]


class _Counting(Protocol):
    """The part of `EventToStore` used here."""

    @property
    def room_nid(self) -> int: ...
    @property
    def event_nid(self) -> int: ...
    @property
    def ordinal(self) -> int | None: ...
    @property
    def redacted_by(self) -> int | None: ...
    @property
    def redacts_nid(self) -> int | None: ...
    @property
    def push(self) -> EventOutcome: ...


class StoredCounts(NamedTuple):
    """The counts of a batch's events.

    totals: event_nid -> the totals, after it, of the groups that it notified.
    taken_back: (room_nid, ordinal of a redaction) -> what it took back.
    """

    totals: Mapping[int, Totals]
    taken_back: Mapping[tuple[int, int], tuple[PushRedacted, ...]]


def has_push_rows(event: _Counting) -> bool | None:
    """Return True if rows other than its totals may name this event, otherwise None."""
    push = event.push
    return True if push.users or push.group_changes or event.redacts_nid is not None else None


def push_totals(events: Sequence[_Counting], own: Mapping[tuple[int, UserId, str], int]) -> PushTotals:
    """Return the rows of every batch. own: (room_nid, user id, thread id) -> ordinal."""
    newest = [
        OwnEvent(room_nid, user_id, thread_id, ordinal) for (room_nid, user_id, thread_id), ordinal in own.items()
    ]
    return PushTotals(counted=_group_totals(events), own=newest)


def _group_totals(events: Sequence[_Counting]) -> list[GroupTotal]:
    sums: dict[tuple[int, int, str], tuple[int, int]] = {}
    totals = []
    for event in events:
        thread_id = event.push.thread_id
        for group, notifies, highlights in event.push.groups:
            key = (event.room_nid, group, thread_id)
            before = sums.get(key, (0, 0))
            now = sums[key] = (before[0] + notifies, before[1] + highlights)
            totals.append(GroupTotal(event.room_nid, group, thread_id, event.ordinal, *now))
    return totals


def redacted_events(events: Sequence[_Counting], redacted: Sequence[tuple[int, int, int]]) -> list[RedactedEvent]:
    """Return the redactions of stored events with the ordinals of the redactions.

    redacted: (room_nid, redacted event, redaction).
    """
    ordinals = {event.event_nid: event.ordinal for event in events} if redacted else {}
    return [RedactedEvent(room_nid, nid, by, ordinals.get(by)) for room_nid, nid, by in redacted]


def push_rows(events: Sequence[_Counting]) -> PushRows:
    """Return exceptions, changes of group, and what is taken back in the batch that counted it."""
    ordinals = {event.event_nid: event.ordinal for event in events}
    exceptions: list[PushException] = []
    group_changes: list[GroupChange] = []
    totals: list[RedactedTotal] = []
    users: list[RedactedException] = []
    for event in events:
        nid, ordinal, thread_id = event.room_nid, event.ordinal, event.push.thread_id
        group_changes += [GroupChange(nid, user, ordinal, group) for user, group in event.push.group_changes]
        by = None if event.redacted_by is None else ordinals.get(event.redacted_by)
        if by is None:
            exceptions += [PushException(nid, user, ordinal, thread_id, n, h) for user, n, h in event.push.users]
        else:
            totals += [RedactedTotal(nid, group, ordinal, thread_id, n, h, by) for group, n, h in event.push.groups]
            users += [RedactedException(nid, ordinal, user, thread_id, n, h, by) for user, n, h in event.push.users]
    return PushRows(
        exceptions=exceptions, group_changes=group_changes, redacted_totals=totals, redacted_exceptions=users
    )


def stored_counts(events: Sequence[_Counting], answer: asyncpg.Record) -> StoredCounts:
    """Return the counts in the statement's answer. Raises AssertionError if the rows came in another order."""
    ordinals, notifies, highlights = answer["counted_ordinals"] or (), answer["notifies"], answer["highlights"]
    totals: dict[int, Totals] = {}
    at = 0
    for event in events:
        groups = event.push.groups
        if groups:
            assert all(ordinals[at + n] == event.ordinal for n in range(len(groups))), "totals are in another order"
            totals[event.event_nid] = tuple(
                (group, notifies[at + n], highlights[at + n]) for n, (group, _, _) in enumerate(groups)
            )
            at += len(groups)
    return StoredCounts(totals, _taken_back(events, answer))


def _taken_back(events: Sequence[_Counting], answer: asyncpg.Record) -> dict[tuple[int, int], tuple[PushRedacted, ...]]:
    groups: dict[tuple[int, int, int, str], list[tuple[int, int, int]]] = {}
    users: dict[tuple[int, int, int, str], list[tuple[str, int, int]]] = {}
    if "taken_back" in answer.keys():  # noqa: SIM118  a record holds values, not keys
        for nid, group, ordinal, thread, n, h, by in answer["taken_back"] or ():
            groups.setdefault((nid, by, ordinal, thread), []).append((group, n, h))
        for nid, ordinal, user, thread, n, h, by in answer["users_taken_back"] or ():
            users.setdefault((nid, by, ordinal, thread), []).append((user, n, h))
    ordinals: dict[int, int | None] | None = None
    for event in events:
        if event.redacted_by is None or not (event.push.groups or event.push.users):
            continue
        ordinals = ordinals or {other.event_nid: other.ordinal for other in events}
        by = ordinals.get(event.redacted_by)
        if by is not None and event.ordinal is not None:
            key = (event.room_nid, by, event.ordinal, event.push.thread_id)
            groups[key], users[key] = list(event.push.groups), list(event.push.users)
    taken: dict[tuple[int, int], tuple[PushRedacted, ...]] = {}
    for nid, by, ordinal, thread in dict.fromkeys((*groups, *users)):
        key = (nid, by, ordinal, thread)
        one = (ordinal, thread, tuple(groups.get(key, ())), tuple(users.get(key, ())))
        taken[nid, by] = (*taken.get((nid, by), ()), one)
    return taken
