"""Unused snapshots go; one that is being named never does, and who names one that went is refused."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from shared.core.state_snapshots import Snapshot
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit import StatementRefused, commit_events
from shared.storage.removal.unused_snapshots import SnapshotKey, reclaim_all_of_room, reclaim_snapshots
from tests.fix_servers import TestDatabase
from tests.storage.test_events import OneConnection, event, writing


def _root(nid: int) -> Snapshot:
    return Snapshot(nid, None, 1, 0, (1,), ())


def _child(nid: int, parent: int, steps: int) -> Snapshot:
    return Snapshot(nid, parent, None, steps, (1,), ())


async def _store(writer: OneConnection, nid: int, state_nid: int | None, snapshots: Sequence[Snapshot] = ()) -> None:
    batch = EventBatch(events=[event(1, nid, nid, state_nid=state_nid)], snapshots=[(1, s) for s in snapshots])  # type: ignore[arg-type]
    await commit_events(writer.write, batch)


async def _left(conn: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await conn.fetch("SELECT nid FROM state_snapshots ORDER BY room_nid, nid")]


async def _walks(writer: OneConnection, rows: int) -> int:
    """Walk until a whole walk deletes nothing; return how many went."""
    total, deleted = 0, 1
    while deleted:
        deleted, place = 0, SnapshotKey(-1, -1)
        while place is not None:
            count, place = await reclaim_snapshots(writer.write, place, rows=rows)  # type: ignore[assignment]
            deleted += count
        total += deleted
    return total


@pytest.mark.parametrize("rows", [1, 3, 500])
async def test_unused_ones_go_from_the_leaves_on(postgres: TestDatabase, rows: int) -> None:
    async with writing(postgres.dsn) as writer:
        conn = writer.conn
        chain = [_root(100), *(_child(100 + n, 100 + n - 1, n) for n in range(1, 10))]
        await _store(writer, 1, 109, chain)  # the whole chain is in use
        await _store(writer, 2, 104)
        await _store(writer, 3, 50, [_root(50), _child(51, 50, 1)])
        assert await _walks(writer, rows) == 1 and 51 not in await _left(conn)
        await conn.execute("UPDATE events SET state_nid = NULL WHERE event_nid = 1")
        assert await _walks(writer, rows) == 5
        assert await _left(conn) == [50, 100, 101, 102, 103, 104]
        await conn.execute("DELETE FROM events")
        assert sum([count async for count in reclaim_all_of_room(writer.write, 2)]) == 0
        assert sum([count async for count in reclaim_all_of_room(writer.write, 1, rows=rows)]) == 6
        assert await _left(conn) == []


async def test_a_snapshot_that_is_being_named_stays(postgres: TestDatabase) -> None:
    """A persister commits an event that shares a snapshot which nothing stored names."""
    async with writing(postgres.dsn) as writer:
        await writer.conn.execute("SET lock_timeout = '200ms'")
        other = await asyncpg.connect(postgres.dsn)
        persister = OneConnection(other, writer.lease)
        await _store(writer, 1, None, [_root(7), _root(8), _root(9)])
        async with other.transaction():
            await _store(persister, 2, 7)
            await _store(persister, 3, None, [_child(20, 8, 1)])
            assert (await reclaim_snapshots(writer.write)).deleted == 1  # 9; 7 and 8 are locked
        assert await _walks(writer, 500) == 2  # 20, whose event has the line, and then 8
        assert await _left(writer.conn) == [7]
        await other.close()


async def test_who_names_one_that_went_is_refused(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        other = await asyncpg.connect(postgres.dsn)
        persister = OneConnection(other, writer.lease)
        await _store(writer, 1, None, [_root(7)])
        for nid, state_nid, snapshots, constraint in (
            (2, 7, [], "events_state_nid_fkey"),
            (3, None, [_child(20, 7, 1)], "state_snapshots_parent_fkey"),
        ):
            # The reclaimer's statement has deleted it and not ended yet: the persister waits for it.
            transaction = writer.conn.transaction()
            await transaction.start()
            assert (await reclaim_snapshots(writer.write)).deleted == 1
            storing = asyncio.create_task(_store(persister, nid, state_nid, snapshots))
            await asyncio.sleep(0.1)
            assert not storing.done()
            await transaction.commit()
            with pytest.raises(StatementRefused) as refused:
                await storing
            assert (refused.value.constraint, refused.value.transient) == (constraint, False)
            assert await other.fetchval("SELECT count(*) FROM events WHERE event_nid = $1", nid) == 0
            await _store(writer, 10 + nid, None, [_root(7)])
        await other.close()


async def test_named_between_the_look_and_the_deletion(postgres: TestDatabase) -> None:
    """The reclaimer's statement is refused then; it goes on with smaller ones and leaves that snapshot out."""
    async with writing(postgres.dsn) as writer:
        conn = writer.conn
        await _store(writer, 1, None, [_root(n) for n in (5, 600, 7000, 8000)])
        # Naming snapshot 600 at the worst moment: a trigger does it when the row is being deleted.
        await conn.execute(
            """CREATE FUNCTION name_it() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN IF OLD.nid = 600 THEN UPDATE events SET state_nid = 600 WHERE event_nid = 1; END IF;
               RETURN OLD; END $$;
               CREATE TRIGGER name_it BEFORE DELETE ON state_snapshots FOR EACH ROW EXECUTE FUNCTION name_it()"""
        )
        assert sum([count async for count in reclaim_all_of_room(writer.write, 1)]) == 3
        assert await _left(conn) == [600]
