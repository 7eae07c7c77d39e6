"""Rooms as events of other servers make them: with fetched history in gaps, branches with their own states, outliers.

async with store(dsn) as stored:
    room = await stored.room()
    room.live(type="m.room.member", state_key=ALICE, sender=ALICE, content={"membership": "join"})
    room.live(); room.history(2); room.gap(2)
    await room.save()
"""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.pool import Database, connector
from shared.storage.events.batch import OUTLIER, ChangeToStore, EventBatch, EventToStore, MembershipToStore, RoomToStore
from shared.storage.events.commit import commit_events
from shared.storage.fleet.leases import insert_lease

ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:remote")
MEMBER = "m.room.member"
VISIBILITY = "m.room.history_visibility"
_numbers = itertools.count(1)


@dataclass(slots=True)
class StoredRoom:
    """A room. places: the point of every accepted event by id. nids: event numbers by id."""

    writer: FencedWriter
    room_nid: int
    room_id: RoomId
    batch: EventBatch = field(default_factory=EventBatch)
    ordinal: int = 0
    backs: dict[int, int] = field(default_factory=dict)
    places: dict[str, HistoryPoint] = field(default_factory=dict)
    nids: dict[str, int] = field(default_factory=dict)
    state: dict[tuple[str, str], int] = field(default_factory=dict)

    def live(self, **fields: Any) -> EventId:
        """Add an event at the end. A state event becomes the line's state. fields: see `_event`."""
        self.ordinal += 1
        event = self._event(ordinal=self.ordinal, **fields)
        self.places[event.event_id] = HistoryPoint(self.ordinal)
        if event.state_key is not None:
            key = (event.type, event.state_key)
            self.batch.changes.append(
                ChangeToStore(event.event_nid, self.ordinal, *key, event.event_nid, self.state.get(key))
            )
            self.state[key] = event.event_nid
            if event.type == MEMBER:
                membership = orjson.loads(event.json)["content"]["membership"]
                self.batch.memberships.append(
                    MembershipToStore(
                        event.event_nid, UserId(event.state_key), membership, event.event_nid, event.sender, True
                    )
                )
        return event.event_id

    def history(self, anchor: int, **fields: Any) -> EventId:
        """Add an event before all fetched history of a live event's gap."""
        back = self.backs[anchor] = self.backs.get(anchor, 0) + 1
        event = self._event(anchor=anchor, back=back, **fields)
        self.places[event.event_id] = HistoryPoint(anchor, -back)
        return event.event_id

    def outlier(self, **fields: Any) -> EventId:
        return self._event(**({"status": OUTLIER} | fields)).event_id

    def member(self, user_id: UserId, membership: str, **fields: Any) -> dict[str, Any]:
        """Return the fields of a user's own member event."""
        content = {"membership": membership}
        return {"type": MEMBER, "state_key": user_id, "sender": user_id, "content": content, **fields}

    def snapshot(self, base: int, added: list[str], removed: list[str] = [], parent: int | None = None) -> int:  # noqa: B006
        """Add a snapshot: the line before `base`, or the parent, with these events changed."""
        nid, steps = next(_numbers), 0
        if parent is not None:
            # These tests need a walk of any depth: the parent is always the step before.
            steps = next(s.steps for _, s in self.batch.snapshots if s.nid == parent) + 1
        nids = [tuple(self.nids[each] for each in ids) for ids in (added, removed)]
        snapshot = Snapshot(nid, parent, base if parent is None else None, steps, *nids)
        self.batch.snapshots.append((self.room_nid, snapshot))
        return nid

    def gap(self, anchor: int, missing: tuple[EventId, ...] = (EventId("$missing"),)) -> None:
        self.batch.gaps[self.room_nid, anchor] = missing

    async def save(self) -> None:
        await commit_events(self.writer.write, self.batch)
        self.batch = EventBatch()

    def ordered(self) -> list[str]:
        """Return the ids of all events that have a point, in order: the naive form of all pages."""
        return sorted(self.places, key=self.places.__getitem__)

    def _event(
        self,
        *,
        type: str = "m.room.message",
        state_key: str | None = None,
        sender: UserId = BOB,
        content: Mapping[str, Any] | None = None,
        ts: int = 1000,
        **stored: Any,
    ) -> EventToStore:
        nid = next(_numbers)
        event_id = EventId(f"$event{nid}")
        pdu: dict[str, Any] = {
            "type": type,
            "sender": sender,
            "room_id": self.room_id,
            "content": content or {"body": event_id},
            "origin_server_ts": ts,
            "depth": nid,
            "auth_events": [],
            "prev_events": [],
            "hashes": {},
            "signatures": {},
        }
        if state_key is not None:
            pdu["state_key"] = state_key
        given: dict[str, Any] = {"ordinal": None, "replaces_nid": None, **stored}
        event = EventToStore(
            room_nid=self.room_nid,
            event_nid=nid,
            event_id=event_id,
            depth=nid,
            type=type,
            state_key=state_key,
            sender=sender,
            json=orjson.dumps(pdu),
            origin_server_ts=ts,
            prev_nids=(),
            auth_nids=(),
            **given,
        )
        self.batch.events.append(event)
        self.nids[event_id] = nid
        return event


@dataclass(slots=True)
class Store:
    database: Database
    writer: FencedWriter

    def room(self) -> StoredRoom:
        """Return a new room of version 11. `save` stores everything."""
        nid = next(_numbers)
        room = StoredRoom(self.writer, nid, RoomId(f"!room{nid}:example.org"))
        room.batch.rooms.append(RoomToStore(nid, room.room_id, "11", "@bob:remote", False, 1000))
        return room


@asynccontextmanager
async def store(dsn: str) -> AsyncIterator[Store]:
    connect = connector(dsn, pgbouncer=False)
    database = Database(connect, max_connections=2)
    async with database.connection() as conn:
        lease = await insert_lease(
            conn,
            process=f"event_persister-{next(_numbers)}",
            type_="event_persister",
            host="h",
            pid=1,
            address="127.0.0.1:1",
            version="0",
            sequences={"events": "stream_events"},
        )
    writer = FencedWriter(connect, lease, SeenPositions(), lambda why: None)
    try:
        yield Store(database, writer)
    finally:
        await writer.close()
        await database.close()
