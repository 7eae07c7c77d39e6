"""PURE: the batch that one statement stores for built writes, and the stream rows of what it stored."""

from collections.abc import Iterator, Sequence

from shared.core.identifiers import EventId, UserId
from shared.core.rows import EventRow
from shared.core.sticky_events import sticky_of_pdu
from shared.storage.events.batch import (
    ACCEPTED,
    AliasToStore,
    ArrivedEvent,
    AwaitedRedaction,
    ChangeToStore,
    EventBatch,
    EventToStore,
    MembershipToStore,
    RedactionToStore,
    RoomToStore,
    StickyToStore,
    TransactionToStore,
)
from shared.storage.push.counts import StoredCounts
from workers.event_persister.room.drafts import USUAL, BuiltEvent, EntryChange, NewRoom
from workers.event_persister.room.live_room import LiveRoom, Write

#: Memberships that a row names. Of a state that came as a whole there are as many as the room has members.
_MAX_MEMBERS_SENT = 300


def rows_of(
    room: LiveRoom,
    stored: Sequence[tuple[EventToStore, int]],
    writer: int,
    memberships: Sequence[MembershipToStore],
    counts: StoredCounts,
) -> Iterator[EventRow]:
    """Yield the stream rows of a room's stored events.

    stored: the events with their positions.
    memberships, counts: of the whole statement, perhaps those of other events too.
    """
    # Only the first event after one of another writer names it: from then on the predecessor is ours.
    prior = (room.last_writer, room.last_position) if room.last_writer not in (0, writer) else (None, None)
    for event, position in stored:
        if event.ordinal is None:
            continue  # not in the timeline: no reader follows these
        members = _members_of(event, memberships) if event.resolved else ()
        is_unsent = len(members) > _MAX_MEMBERS_SENT
        yield EventRow(
            position=position,
            writer=writer,
            room_nid=event.room_nid,
            room_id=room.room_id,
            room_version=room.version.name,
            event_nid=event.event_nid,
            event_id=event.event_id,
            ordinal=event.ordinal,
            type=event.type,
            state_key=event.state_key,
            sender=event.sender,
            origin_server_ts=event.origin_server_ts,
            status=ACCEPTED,
            replaces_nid=event.replaces_nid,
            redacted_by=event.redacted_by,
            txn_device=event.txn_device,
            txn_id=event.txn_id,
            json=event.json,
            prior_writer=prior[0],
            prior_position=prior[1],
            redacts_nid=event.redacts_nid,
            resolved=event.resolved,
            gap=event.gap,
            members=() if is_unsent else members,
            is_unsent=is_unsent,
            thread_id=event.push.thread_id,
            push=counts.totals.get(event.event_nid, ()),
            push_users=event.push.users,
            push_groups=event.push.group_changes,
            push_redacted=counts.taken_back.get((event.room_nid, event.ordinal), ()) if counts.taken_back else (),
        )
        prior = (None, None)


def _members_of(
    event: EventToStore, memberships: Sequence[MembershipToStore]
) -> tuple[tuple[UserId, str, int, UserId], ...]:
    mine = (member for member in memberships if member.at_nid == event.event_nid)
    return tuple((member.user_id, member.membership, member.event_nid, member.sender) for member in mine)


def batch_of(writes: Sequence[Write], server_name: str) -> EventBatch:
    """Return the batch that stores all of these writes, in their order."""
    batch = EventBatch()
    redacted: dict[int, tuple[int, int]] = {}  # redacted event -> (its room, the first redaction of it)
    for write in writes:
        for built in write.built:
            if built.redacts_nid is not None:
                redacted.setdefault(built.redacts_nid, (write.room.room_nid, built.event_nid))
    for write in writes:
        room = write.room
        for built in write.built:
            # An UPDATE does not see what its own statement inserts: such a row is redacted from the start.
            redaction = redacted.pop(built.event_nid, None) if redacted else None
            batch.events.append(_to_store(room, built, built.graph.redacted_by if redaction is None else redaction[1]))
            if built.push.is_mark and built.ordinal is not None:
                batch.own[room.room_nid, built.event.sender, built.push.thread_id] = built.ordinal
            for change in built.changes:
                _add_change(batch, built, change, server_name)
            if built.ordinal is not None and (sticky := sticky_of_pdu(built.event.pdu)) is not None:
                sent_ms = built.event.origin_server_ts
                batch.sticky.append(StickyToStore(built.event_nid, built.ordinal, sent_ms, sticky["duration_ms"]))
            if built.graph is not USUAL:
                _add_graph(batch, room.room_nid, built)
        last = write.built[-1]
        batch.extremities[room.room_nid] = [nid for nid, _ in last.head.extremities]
        if write.key is not None:
            event = last.event
            batch.transactions.append(
                TransactionToStore(room.room_nid, write.key, event.event_id, event.origin_server_ts)
            )
        if write.new_room is not None:
            _add_room(batch, room, write.new_room)
    batch.redacted = [RedactionToStore(room_nid, nid, by) for nid, (room_nid, by) in redacted.items()]
    return batch


def _add_change(batch: EventBatch, built: BuiltEvent, change: EntryChange, server_name: str) -> None:
    (kind, key), before, now = change
    assert built.ordinal is not None
    batch.changes.append(
        ChangeToStore(
            built.event_nid,
            built.ordinal,
            kind,
            key,
            None if now is None else now.event_nid,
            None if before is None else before.event_nid,
        )
    )
    if kind != "m.room.member":
        return
    is_local = key.endswith(":" + server_name)
    if now is not None:
        sender = built.event.sender if now.event_nid == built.event_nid else built.graph.senders[now.event_nid]
        member = MembershipToStore(
            built.event_nid, UserId(key), now.membership or "leave", now.event_nid, sender, is_local
        )
    else:
        # Resolution removed the user's membership altogether: they count as having left by themselves.
        assert before is not None
        member = MembershipToStore(built.event_nid, UserId(key), "leave", before.event_nid, UserId(key), is_local)
    batch.memberships.append(member)


def _add_graph(batch: EventBatch, room_nid: int, built: BuiltEvent) -> None:
    graph = built.graph
    if graph.snapshot is not None:
        batch.snapshots.append((room_nid, graph.snapshot))
    for anchor, missing in graph.gaps.items():
        batch.gaps[room_nid, anchor] = missing
    if graph.awaited is not None:
        batch.awaited.append(AwaitedRedaction(room_nid, EventId(graph.awaited), built.event_nid))
    if graph.was_awaited:
        # The statement cannot delete what it inserts itself, so nothing of it may be in this batch.
        event_id = built.event.event_id
        batch.arrived.append(ArrivedEvent(room_nid, event_id))
        batch.awaited = [one for one in batch.awaited if one[:2] != (room_nid, event_id)]


def _add_room(batch: EventBatch, room: LiveRoom, new: NewRoom) -> None:
    batch.rooms.append(
        RoomToStore(
            room_nid=room.room_nid,
            room_id=room.room_id,
            room_version=room.version.name,
            creator=new.creator,
            is_public=new.is_public,
            created_ms=new.created_ms,
        )
    )
    if new.alias is not None:
        batch.aliases.append(AliasToStore(new.alias, room.room_nid, new.creator, new.created_ms))


def _to_store(room: LiveRoom, built: BuiltEvent, redacted_by: int | None) -> EventToStore:
    event, graph = built.event, built.graph
    return EventToStore(
        room_nid=room.room_nid,
        event_nid=built.event_nid,
        event_id=event.event_id,
        ordinal=built.ordinal,
        depth=event.depth,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        origin_server_ts=event.origin_server_ts,
        prev_nids=built.prev_nids,
        auth_nids=built.auth_nids,
        replaces_nid=built.replaces_nid,
        redacted_by=redacted_by,
        redacts_nid=built.redacts_nid,
        txn_device=built.device,
        txn_id=built.txn_id,
        json=event.encoded,
        status=graph.status,
        anchor=graph.anchor,
        back=graph.back,
        state_nid=graph.state_nid,
        resolved=built.is_resolved,
        gap=graph.is_after_gap,
        promotes=graph.promotes,
        push=built.push,
    )
