"""The positions that a writer calls complete while it writes. Evidence 3; protocol notes, A11."""

import asyncio

from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.storage.engine.pool import connector
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit import commit_events
from shared.storage.fleet.leases import insert_lease
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import event


async def test_rows_are_complete_only_after_their_announcement(postgres: TestDatabase) -> None:
    """A reader ignores rows below "complete up to", so a tick must be safe at any time."""
    connect = connector(postgres.dsn, pgbouncer=False)
    conn = await connect()
    lease = await insert_lease(
        conn,
        process="p",
        type_="event_persister",
        host="h",
        pid=1,
        address="a:1",
        version="0",
        sequences={"events": "stream_events"},
    )
    seen = SeenPositions()
    writer = FencedWriter(connect, lease, seen, lambda why: None)
    [first] = (await commit_events(writer.write, EventBatch(events=[event(1, 1, 1)], extremities={1: [1]}))).positions
    seen.see("events", first)
    lock = conn.transaction()
    await lock.start()
    await conn.execute("SELECT FROM forward_extremities FOR UPDATE")

    async def write_and_announce() -> int:
        batch = EventBatch(events=[event(1, 2, 2)], extremities={1: [2]})
        [position] = (await commit_events(writer.write, batch)).positions
        seen.see("events", position)
        return position

    ours = asyncio.create_task(write_and_announce())
    others = 0
    while others < first + 2:  # until the statement has its position and waits for the lock
        await asyncio.sleep(0.02)
        others = await conn.fetchval("SELECT last_value + 1 FROM stream_events")
    await conn.fetchval("SELECT nextval('stream_events')")
    seen.see("events", others)  # another writer announced a row above ours
    assert writer.complete_up_to("events") == first
    await lock.rollback()
    while not ours.done():
        assert writer.complete_up_to("events") == first, "a tick now would hide our row"
        await asyncio.sleep(0)
    assert first < ours.result() < others
    assert writer.complete_up_to("events") == others
    await writer.close()
    await conn.close()
