"""Scenario `unread_million`: a receipt or a message and the next sync, in rooms with up to a million unread events.

    python -m load.unread_million                              rooms with 1,000 to 1,000,000 unread events
    python -m load.unread_million --unread 1000,10000 --operations 50

A writer of the scenario fills the rooms. It commits batches as a persister does, under its own lease. Then the fleet's
persisters and synchrotrons restart with empty memory. The events are encrypted: they notify, and the search index skips
them. Each receipt names the oldest unread event, so that its counts cannot be in memory, and every count is checked.
"""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson

from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.restarts import restart
from load.harness.scenario import Bench, Tally, counts, join, main, message, new_room, new_users, results, send_path
from replication.streams import EVENTS
from shared.core.canonical_json import encode_canonical
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules import DEFAULT_GROUP
from shared.core.push_rules.event_outcome import EventOutcome
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.number_blocks import BLOCK
from shared.storage.engine.statements import Parameters
from shared.storage.events.batch import EventBatch, EventToStore
from shared.storage.events.commit import commit_events
from shared.storage.fleet.leases import fence, insert_lease, record_heartbeat

_V3 = "/_matrix/client/v3"
_BATCH = 500
_BEAT_EVERY_S = 1.0
_NOTIFIES = EventOutcome(groups=((DEFAULT_GROUP, 1, 0),))
_SYNC_LIMIT_S = 600.0  # for the synchrotrons to read the new rows


@dataclass(slots=True)
class _Room:
    """A filled room. unread: the number of events. read: the number that the reader has read."""

    room_id: RoomId
    unread: int
    event_ids: list[EventId]
    read: int = 0


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "unread_million", "change")
    assert bench.database is not None, "a fleet on this machine"
    sender, reader = await new_users(target, "unread", 2)
    rooms = [_Room(await new_room(sender), count, []) for count in arguments.unread]
    for room in rooms:
        await join(reader, room.room_id)
    async with _writer(bench.database) as writer:
        for room in rooms:
            room.event_ids = await writer.fill(room.room_id, sender.user_id, room.unread)
    if not arguments.no_restart:
        for worker_type in ("event_persister", "synchrotron"):
            await restart(target, worker_type)
        bench.find_processes(target)
    tallies = []
    shape = {"operations": arguments.operations}
    async with bench.case("first sync", {"rooms": len(rooms)}) as first:
        token = await _first_sync(reader, rooms, first)
    tallies.append(first)
    for room in rooms:
        token = await _receipts(room, reader, token, 2, Tally())
        async with bench.case(f"receipt, {room.unread:,} unread", shape) as tally:
            token = await _receipts(room, reader, token, arguments.operations, tally)
        tallies.append(tally)
    for room, count in zip(rooms, arguments.unread, strict=True):
        token = await _messages(room, sender, reader, token, 2, Tally())
        async with bench.case(f"message, {count:,} unread", shape) as tally:
            token = await _messages(room, sender, reader, token, arguments.operations, tally)
        tallies.append(tally)
    for user in (sender, reader):
        user.connection.close()
    return results(*tallies)


async def _first_sync(reader: User, rooms: Sequence[_Room], tally: Tally) -> str:
    """Sync until the counts are complete. Return the token."""
    end_s = time.monotonic() + _SYNC_LIMIT_S
    while True:
        answer = orjson.loads(await tally.timed(reader.connection.raw_request("GET", f"{_V3}/sync", b"")))
        counts = [_unread(answer, room) for room in rooms]
        if counts == [room.unread for room in rooms]:
            return str(answer["next_batch"])
        if time.monotonic() > end_s:
            raise TimeoutError(f"the counts are {counts}")
        await asyncio.sleep(1.0)


async def _receipts(room: _Room, reader: User, token: str, count: int, tally: Tally) -> str:
    """Read one event after another, the oldest first, and sync after each."""
    for _ in range(count):
        event_id = quote(room.event_ids[room.read], safe="")
        path = f"{_V3}/rooms/{quote(room.room_id, safe='')}/receipt/m.read.private/{event_id}"
        token = await _changed(tally, reader, room, reader.connection.raw_request("POST", path, b"{}"), token, read=1)
    return token


async def _messages(room: _Room, sender: User, reader: User, token: str, count: int, tally: Tally) -> str:
    for _ in range(count):
        path = send_path(room.room_id, f"m{room.unread + 1}")
        sending = sender.connection.raw_request("PUT", path, message())
        token = await _changed(tally, reader, room, sending, token, unread=1)
    return token


async def _changed(
    tally: Tally, reader: User, room: _Room, change: Any, token: str, *, unread: int = 0, read: int = 0
) -> str:
    """Do one operation: make a change, and sync as the reader. Return the next token.

    A failed change is not tried again. The first message fails in a room that was in its persister's memory before the
    room was filled.
    unread, read: the increments of the room's numbers.
    """
    started_s = time.perf_counter()
    status, _ = await change
    if status != 200:
        tally.errors[f"status {status}"] += 1
        return token
    room.unread, room.read = room.unread + unread, room.read + read
    answer = await reader.request("GET", f"{_V3}/sync?timeout=10000&since={token}")
    if _unread(answer, room) == room.unread - room.read:
        tally.latencies_s.append(time.perf_counter() - started_s)
    else:
        tally.errors["wrong count"] += 1
    return str(answer["next_batch"])


def _unread(answer: Any, room: _Room) -> int:
    section = answer.get("rooms", {}).get("join", {}).get(room.room_id)
    return section["unread_notifications"]["notification_count"] if section is not None else -1


class _Writer:
    """Writes events as a persister does, with one fenced statement per batch."""

    def __init__(self, connection: asyncpg.Connection, lease: int) -> None:
        self._connection = connection
        self._lease = lease

    async def write(
        self, statement: FencedStatement[Parameters], record: Parameters, *, streams: Sequence[str] = ()
    ) -> asyncpg.Record:
        row = await self._connection.fetchrow(statement.sql, self._lease, *statement.values(record))
        assert row is not None and row["fence"], "the lease was lost"
        return row

    async def fill(self, room_id: RoomId, sender: UserId, count: int) -> list[EventId]:
        """Append events of a user to a room. Return their ids."""
        row = await self._connection.fetchrow(
            "SELECT r.room_nid, max(e.ordinal) AS last, max(e.depth) AS depth, max(e.event_nid) AS nid"
            " FROM rooms r JOIN events e USING (room_nid) WHERE r.room_id = $1 GROUP BY r.room_nid",
            room_id,
        )
        assert row is not None
        room_nid, last, depth, previous = row
        event_ids: list[EventId] = []
        started_s = time.monotonic()
        while len(event_ids) < count:
            size = min(_BATCH, count - len(event_ids), BLOCK)
            first = await self._connection.fetchval("SELECT nextval('event_nids')")
            batch = EventBatch()
            for nid in range(first, first + size):
                last, depth = last + 1, depth + 1
                event_ids.append(EventId(f"$unread{nid:036}"))
                event = _event(room_nid, nid, event_ids[-1], room_id=room_id, sender=sender, depth=depth)
                batch.events.append(replace(event, ordinal=last, prev_nids=[previous]))
                previous = nid
            batch.extremities[room_nid] = [previous]
            batch.own[room_nid, sender, ""] = last
            await commit_events(self.write, batch)
        print(f"{count} events in {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
        return event_ids


def _event(
    room_nid: int, event_nid: int, event_id: EventId, *, room_id: RoomId, sender: UserId, depth: int
) -> EventToStore:
    """Return an event without its place in the room."""
    pdu: dict[str, Any] = {
        "type": "m.room.encrypted",
        "room_id": room_id,
        "sender": sender,
        "depth": min(depth, 2**53 - 1),
        "origin_server_ts": time.time_ns() // 1_000_000,
        "prev_events": [],
        "auth_events": [],
        "content": {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" * 100},
        "hashes": {"sha256": "x" * 43},
        "signatures": {sender.partition(":")[2]: {"ed25519:a": "x" * 86}},
    }
    return EventToStore(
        room_nid=room_nid,
        event_nid=event_nid,
        event_id=event_id,
        ordinal=None,
        depth=depth,
        type=pdu["type"],
        state_key=None,
        sender=sender,
        origin_server_ts=pdu["origin_server_ts"],
        prev_nids=[],
        auth_nids=[],
        json=encode_canonical(pdu),
        push=_NOTIFIES,
    )


@asynccontextmanager
async def _writer(dsn: str) -> AsyncIterator[_Writer]:
    """Yield a writer with its own lease. Its type never gets slots."""
    connection, beating = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    lease = await insert_lease(
        connection,
        process="load-1",
        type_="load",
        host=platform.node(),
        pid=os.getpid(),
        address="127.0.0.1:1",
        version="load",
        sequences={EVENTS.name: EVENTS.sequence},
    )

    async def keep_beating() -> None:
        while True:
            await record_heartbeat(beating, lease, ready=False, draining=False, positions={})
            await asyncio.sleep(_BEAT_EVERY_S)

    task = asyncio.create_task(keep_beating())
    try:
        yield _Writer(connection, lease)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await fence(connection, lease)
        await connection.close()
        await beating.close()


def _arguments(parser: argparse.ArgumentParser) -> None:
    unread = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--unread", type=counts, default=unread, help="one room for each number (1000 to 1000000)")
    parser.add_argument("--operations", type=int, default=200, help="changes in each case (200)")
    parser.add_argument("--no-restart", action="store_true", help="do not restart the workers")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
