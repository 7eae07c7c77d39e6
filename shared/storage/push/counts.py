"""What events count: from a batch of them to the parameters of the statement, and from its answer to their totals.

The statement's parts are in `statement.py`; the rows' meaning in `migrations/0012_unread_counts.sql`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import asyncpg

from shared.core.push_rules.event_outcome import EventOutcome
from shared.core.rows import PushRedacted
from shared.storage.engine.parameters import columns

#: (group, notifies, highlights): running totals.
Totals = tuple[tuple[int, int, int], ...]


class _Counting(Protocol):
    """The part of `EventToStore` that this is about."""

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
    """totals: event_nid -> the totals of the groups that it notified, after it. taken_back: (room_nid, ordinal of the
    redaction) -> what it took back.
    """

    totals: Mapping[int, Totals]
    taken_back: Mapping[tuple[int, int], tuple[PushRedacted, ...]]


def has_push_rows(event: _Counting) -> bool | None:
    """Return whether rows beside its totals may name this event: True or None."""
    push = event.push
    return True if push.users or push.group_changes or event.redacts_nid is not None else None


def message_args(events: Sequence[_Counting], own: Mapping[tuple[int, str, str], int]) -> list[Any]:
    """Return the parameters of the parts that every batch has. own: (room_nid, user id, thread id) -> ordinal."""
    marks = [(nid, user, thread, ordinal) for (nid, user, thread), ordinal in own.items()]
    return [*columns(_counted(events), 6), *columns(marks, 4)]


def _counted(events: Sequence[_Counting]) -> list[tuple[int, int, str, int | None, int, int]]:
    sums: dict[tuple[int, int, str], tuple[int, int]] = {}
    counted: list[tuple[int, int, str, int | None, int, int]] = []
    for event in events:
        outcome = event.push
        for group, notifies, highlights in outcome.groups:
            key = (event.room_nid, group, outcome.thread_id)
            before = sums.get(key, (0, 0))
            now = sums[key] = (before[0] + notifies, before[1] + highlights)
            counted.append((event.room_nid, group, outcome.thread_id, event.ordinal, *now))
    return counted


def redaction_args(events: Sequence[_Counting], redacted: Sequence[tuple[int, int, int]]) -> list[list[Any]]:
    """Return the redactions of stored events with the ordinals of those that redact."""
    ordinals = {event.event_nid: event.ordinal for event in events} if redacted else {}
    return columns([(*one, ordinals.get(one[2])) for one in redacted], 4)


def state_args(events: Sequence[_Counting]) -> list[Any]:
    """Return the parameters of exceptions, changes of group, and what is taken back in the batch that counted it."""
    ordinals = {event.event_nid: event.ordinal for event in events}
    exceptions, moved, groups, users = [], [], [], []
    for event in events:
        nid, ordinal, outcome = event.room_nid, event.ordinal, event.push
        moved += [(nid, user, ordinal, group) for user, group in outcome.group_changes]
        thread = outcome.thread_id
        by = None if event.redacted_by is None else ordinals.get(event.redacted_by)
        if by is None:
            exceptions += [(nid, user, ordinal, thread, n, h) for user, n, h in outcome.users]
        else:
            groups += [(nid, group, ordinal, thread, n, h, by) for group, n, h in outcome.groups]
            users += [(nid, ordinal, user, thread, n, h, by) for user, n, h in outcome.users]
    return [*columns(exceptions, 6), *columns(moved, 4), *columns(groups, 7), *columns(users, 7)]


def stored_counts(events: Sequence[_Counting], answer: asyncpg.Record) -> StoredCounts:
    """Return what the statement says of these events. Raises AssertionError: the rows came in another order."""
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
