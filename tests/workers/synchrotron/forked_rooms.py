"""Rooms with what forks cause: state changed by resolution, soft-failed events and gaps.

Rows are written under the lease of the persister that owns the room. It must be idle, and evicts the room afterwards.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from replication.streams import EVENTS
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.rows import EventRow
from shared.core.slots import slot_of
from shared.storage.events.batch import SOFT_FAILED, ChangeToStore, EventBatch, EventToStore, MembershipToStore
from shared.storage.events.commit import commit_events
from tests.rigs.persister import Persister
from tests.rigs.synchrotron import World

MEMBER = "m.room.member"
StateKey = tuple[str, str]
_numbers = itertools.count(1)


class ForkedRoom:
    """One room of the world. Events are named by their ids."""

    def __init__(self, world: World, room_id: RoomId) -> None:
        self.world = world
        self.room_id = room_id
        self._persister: Persister = next(p for p in world.persisters if p.slots.takes(slot_of(room_id)))

    async def events_of(self, key: StateKey) -> list[EventId]:
        """Return the id of every event with this key, also if it never was in the state."""
        rows = await self.world.database.fetch(
            """SELECT e.event_id FROM events e JOIN rooms r USING (room_nid)
               WHERE r.room_id = $1 AND e.type = $2 AND e.state_key = $3 ORDER BY e.event_nid""",
            self.room_id,
            *key,
        )
        return [row["event_id"] for row in rows]

    async def state(self) -> dict[StateKey, EventId]:
        rows = await self.world.database.fetch(
            """SELECT s.type, s.state_key, e.event_id FROM current_state s JOIN events e USING (room_nid, event_nid)
               JOIN rooms r USING (room_nid) WHERE r.room_id = $1""",
            self.room_id,
        )
        return {(row["type"], row["state_key"]): row["event_id"] for row in rows}

    async def soft_fail(self, sender: UserId, event_type: str, state_key: str, content: Mapping[str, Any]) -> EventId:
        """Store a soft-failed state event, which no client gets."""
        room_nid, _, depth, nid = await self._end()
        event = self._event(
            room_nid=room_nid,
            nid=nid,
            depth=depth,
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
            ordinal=None,
            status=SOFT_FAILED,
        )
        await commit_events(self._persister.foundation.writer.write, EventBatch(events=[event]))
        return event.event_id

    async def write(
        self,
        sender: UserId,
        event_type: str = "m.room.message",
        content: Mapping[str, Any] | None = None,
        *,
        state_key: str | None = None,
        wins: bool = True,
        to: Mapping[StateKey, str | None] | None = None,
        gap: bool = False,
    ) -> EventId:
        """Store one live event.

        wins: a state event becomes the state of its key.
        to: the new values of other keys, as ids of stored events. None: the key leaves the state.
        """
        room_nid, ordinal, depth, nid = await self._end()
        content = content or {"msgtype": "m.text", "body": f"forked {next(_numbers)}"}
        stored = await self._stored()
        state = await self.state()
        batch = EventBatch(extremities={room_nid: (nid,)})
        own = (event_type, state_key) if state_key is not None and wins else None
        replaces = stored[state[own]][0] if own in state else None
        resolved = state_key is not None and not wins
        if own is not None:
            batch.changes.append(ChangeToStore(nid, ordinal + 1, *own, nid, replaces))
            if event_type == MEMBER:
                batch.memberships.append(
                    MembershipToStore(nid, UserId(own[1]), content["membership"], nid, sender, is_local=True)
                )
        for key, event_id in (to or {}).items():
            if state.get(key) == event_id or key == own:
                continue
            resolved = True
            before = stored[state[key]] if key in state else None
            now = stored[event_id] if event_id is not None else None
            batch.changes.append(ChangeToStore(nid, ordinal + 1, *key, now and now[0], before and before[0]))
            if key[0] == MEMBER:
                batch.memberships.append(_membership(nid, UserId(key[1]), before, now))
        event = self._event(
            room_nid=room_nid,
            nid=nid,
            depth=depth,
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
            ordinal=ordinal + 1,
            resolved=resolved,
            gap=gap,
            replaces_nid=replaces,
        )
        batch.events.append(event)
        (position,) = (await commit_events(self._persister.foundation.writer.write, batch)).positions
        await self._announce(batch, event, position)
        return event.event_id

    async def _announce(self, batch: EventBatch, event: EventToStore, position: int) -> None:
        foundation = self._persister.foundation
        assert event.ordinal is not None
        version = await self.world.database.fetchval("SELECT room_version FROM rooms WHERE room_id = $1", self.room_id)
        members = tuple((m.user_id, m.membership, m.event_nid, m.sender) for m in batch.memberships)
        foundation.announcer.announce(
            EVENTS,
            [
                EventRow(
                    position=position,
                    writer=foundation.lease,
                    room_nid=event.room_nid,
                    room_id=self.room_id,
                    room_version=version,
                    event_nid=event.event_nid,
                    event_id=event.event_id,
                    ordinal=event.ordinal,
                    type=event.type,
                    state_key=event.state_key,
                    sender=event.sender,
                    origin_server_ts=event.origin_server_ts,
                    status=0,
                    replaces_nid=event.replaces_nid,
                    redacted_by=None,
                    txn_device=None,
                    txn_id=None,
                    json=event.json,
                    resolved=event.resolved,
                    gap=event.gap,
                    members=members if event.resolved else (),
                )
            ],
        )
        takes = self._persister.slots.takes
        self._persister.slots.takes = lambda slot: False
        for listener in self._persister.slots.listeners:
            listener("rooms", set())
        self._persister.slots.takes = takes

    async def _end(self) -> tuple[int, int, int, int]:
        """Return (room_nid, last ordinal, greatest depth, a new event_nid)."""
        row = await self.world.database.fetchrow(
            """SELECT room_nid, max(ordinal) AS ordinal, max(depth) AS depth, nextval('event_nids') AS nid
               FROM events JOIN rooms r USING (room_nid) WHERE r.room_id = $1 GROUP BY room_nid""",
            self.room_id,
        )
        assert row is not None
        return tuple(row)

    async def _stored(self) -> dict[str, tuple[int, str, bytes]]:
        """Return (event_nid, sender, PDU) of the room's state events by id."""
        rows = await self.world.database.fetch(
            """SELECT event_id, event_nid, sender, json FROM events JOIN rooms r USING (room_nid)
               WHERE r.room_id = $1 AND state_key IS NOT NULL""",
            self.room_id,
        )
        return {row["event_id"]: (row["event_nid"], row["sender"], row["json"]) for row in rows}

    def _event(
        self,
        *,
        room_nid: int,
        nid: int,
        depth: int,
        sender: UserId,
        event_type: str,
        state_key: str | None,
        content: Mapping[str, Any],
        ordinal: int | None,
        status: int = 0,
        resolved: bool = False,
        gap: bool = False,
        replaces_nid: int | None = None,
    ) -> EventToStore:
        pdu: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "room_id": self.room_id,
            "content": content,
            "origin_server_ts": 1000,
            "depth": depth + 1,
            "auth_events": [],
            "prev_events": [],
            "hashes": {},
            "signatures": {},
        }
        if state_key is not None:
            pdu["state_key"] = state_key
        return EventToStore(
            room_nid=room_nid,
            event_nid=nid,
            event_id=EventId(f"$forked{nid}"),
            ordinal=ordinal,
            depth=depth + 1,
            type=event_type,
            state_key=state_key,
            sender=sender,
            origin_server_ts=1000,
            prev_nids=(),
            auth_nids=(),
            replaces_nid=replaces_nid,
            json=orjson.dumps(pdu, option=orjson.OPT_SORT_KEYS),
            status=status,
            resolved=resolved,
            gap=gap,
        )


def _membership(
    at_nid: int, user_id: UserId, before: Sequence[Any] | None, now: Sequence[Any] | None
) -> MembershipToStore:
    if now is None:
        assert before is not None
        return MembershipToStore(at_nid, user_id, "leave", before[0], user_id, is_local=True)
    nid, sender, json = now
    return MembershipToStore(at_nid, user_id, orjson.loads(json)["content"]["membership"], nid, sender, is_local=True)
