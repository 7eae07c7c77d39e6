"""Storing a batch of events."""

import itertools
from typing import NamedTuple

import asyncpg

from shared.core.errors import SkepError
from shared.core.events.relation import relation_of_json
from shared.storage.engine.arrays import number_array, text_array
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import NotWritten
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit_statement import (
    COMMIT_EVENTS,
    COMMIT_GRAPH,
    COMMIT_MESSAGES,
    CommitEvents,
    CommitGraph,
    CommitMessages,
    EventColumns,
    Extremities,
    GapToStore,
    GraphColumns,
    SnapshotToStore,
)
from shared.storage.push.counts import (
    StoredCounts,
    has_push_rows,
    push_rows,
    push_totals,
    redacted_events,
    stored_counts,
)


class StoredBatch(NamedTuple):
    """positions: of the batch's events, in their order, ascending. counts: what they count."""

    positions: list[int]
    counts: StoredCounts


class StatementRefused(SkepError):
    """PostgreSQL refused the statement: nothing was written. One event of the batch may be the cause.

    constraint: the violated constraint's name, "" for other reasons.
    transient: True for a lock or a time limit, so that the same statement may succeed later.
    outage: True if the database itself is in trouble, and no event is to blame.
    """

    def __init__(self, constraint: str, message: str, *, transient: bool = False, outage: bool = False) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.transient = transient
        self.outage = outage


async def commit_events(write: FencedWrite, batch: EventBatch) -> StoredBatch:
    """Store the batch.

    Raises StatementRefused if nothing was written, Fenced if the lease is lost or the outcome unknown.
    """
    messages = _messages(batch)
    try:
        if batch.is_graph:
            row = await write(COMMIT_GRAPH, _with_graph(_with_state(messages, batch), batch), streams=("events",))
        elif batch.changes or batch.rooms or batch.redacted or True in messages.events.has_push_rows:
            row = await write(COMMIT_EVENTS, _with_state(messages, batch), streams=("events",))
        else:
            row = await write(COMMIT_MESSAGES, messages, streams=("events",))
    except NotWritten as error:
        raise StatementRefused("", str(error.__cause__), transient=error.is_lock, outage=not error.is_lock) from error
    except asyncpg.PostgresError as error:
        constraint = getattr(error, "constraint_name", None) or ""
        raise StatementRefused(constraint, f"{type(error).__name__} {constraint}") from error
    positions: list[int] = row["positions"]
    # Readers take this writer's positions as the order of its events: any other order would reorder rooms for good.
    assert row["event_nids"] == messages.events.event_nid, "events were stored in another order"
    assert all(a < b for a, b in itertools.pairwise(positions)), "positions do not ascend"
    return StoredBatch(positions, stored_counts(batch.events, row))


def _messages(batch: EventBatch) -> CommitMessages:
    events = batch.events
    relations = [relation_of_json(e.json) for e in events]
    return CommitMessages(
        events=EventColumns(
            room_nid=[e.room_nid for e in events],
            event_nid=[e.event_nid for e in events],
            event_id=[e.event_id for e in events],
            ordinal=[e.ordinal for e in events],
            depth=[e.depth for e in events],
            type=[e.type for e in events],
            state_key=[e.state_key for e in events],
            sender=[e.sender for e in events],
            origin_server_ts=[e.origin_server_ts for e in events],
            prev_nids=[number_array(e.prev_nids) for e in events],
            auth_nids=[number_array(e.auth_nids) for e in events],
            replaces_nid=[e.replaces_nid for e in events],
            redacted_by=[e.redacted_by for e in events],
            redacts_nid=[e.redacts_nid for e in events],
            txn_device=[e.txn_device for e in events],
            txn_id=[e.txn_id for e in events],
            json=[e.json for e in events],
            relates_to=[relation and relation.event_id for relation in relations],
            rel_type=[relation and relation.rel_type for relation in relations],
            thread_id=[e.push.thread_id or None for e in events],
            push_groups=[
                number_array([group for group, _, _ in e.push.groups]) if e.push.groups else None for e in events
            ],
            has_push_rows=[has_push_rows(e) for e in events],
        ),
        extremities=[Extremities(room_nid, number_array(nids)) for room_nid, nids in batch.extremities.items()],
        transactions=batch.transactions,
        push=push_totals(events, batch.own),
    )


def _with_state(messages: CommitMessages, batch: EventBatch) -> CommitEvents:
    return CommitEvents(
        events=messages.events,
        extremities=messages.extremities,
        transactions=messages.transactions,
        push=messages.push,
        changes=batch.changes,
        memberships=batch.memberships,
        redactions=redacted_events(batch.events, batch.redacted),
        rooms=batch.rooms,
        aliases=batch.aliases,
        push_rows=push_rows(batch.events),
    )


def _with_graph(state: CommitEvents, batch: EventBatch) -> CommitGraph:
    events = batch.events
    return CommitGraph(
        events=state.events,
        extremities=state.extremities,
        transactions=state.transactions,
        push=state.push,
        changes=state.changes,
        memberships=state.memberships,
        redactions=state.redactions,
        rooms=state.rooms,
        aliases=state.aliases,
        push_rows=state.push_rows,
        graph=GraphColumns(
            status=[e.status for e in events],
            anchor=[e.anchor for e in events],
            back=[e.back for e in events],
            state_nid=[e.state_nid for e in events],
            resolved=[e.resolved or None for e in events],
            gap=[e.gap or None for e in events],
        ),
        snapshots=[
            SnapshotToStore(
                room_nid=room_nid,
                nid=snapshot.nid,
                parent=snapshot.parent,
                base=snapshot.base,
                steps=snapshot.steps,
                added=number_array(snapshot.added),
                removed=number_array(snapshot.removed),
            )
            for room_nid, snapshot in batch.snapshots
        ],
        gaps=[GapToStore(room_nid, anchor, text_array(missing)) for (room_nid, anchor), missing in batch.gaps.items()],
        awaited=batch.awaited,
        arrived=batch.arrived,
        sticky=batch.sticky,
    )
