"""Reclaim of unused snapshots, while persisters store events that name them."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from shared.core.state_snapshots import Snapshot
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit import StatementRefused, commit_events
from shared.storage.removal.unused_snapshots import SnapshotKey, reclaim_all_of_room, reclaim_snapshots
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import OneConnection, event, writing


def _root(nid: int) -> Snapshot:
    return Snapshot(nid, None, 1, 0, (1,), ())


def _child(nid: int, parent: int, steps: int) -> Snapshot:
    return Snapshot(nid, parent, None, steps, (1,), ())


async def _store(writer: OneConnection, nid: int, state_nid: int | None, snapshots: Sequence[Snapshot] = ()) -> None:
    batch = EventBatch(events=[event(1, nid, nid, state_nid=state_nid)], snapshots=[(1, s) for s in snapshots])
    await commit_events(writer.write, batch)


async def _left(conn: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await conn.fetch("SELECT nid FROM state_snapshots ORDER BY room_nid, nid")]


async def _walks(writer: OneConnection, rows: int) -> int:
    """Walk all snapshots until a walk deletes none. Return the number of deleted ones."""
    total, deleted = 0, 1
    while deleted:
        deleted = 0
        after: SnapshotKey | None = SnapshotKey(-1, -1)
        while after is not None:
            count, after = await reclaim_snapshots(writer.write, after, rows=rows)
            deleted += count
        total += deleted
    return total


@pytest.mark.parametrize("rows", [1, 3, 500])
async def test_unused_snapshots_are_deleted_from_the_leaves_up(postgres: TestDatabase, rows: int) -> None:
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


async def test_snapshot_that_an_open_transaction_names_stays(postgres: TestDatabase) -> None:
    """A persister commits an event whose snapshot no stored row names."""
    async with writing(postgres.dsn) as writer:
        await writer.conn.execute("SET lock_timeout = '200ms'")
        other = await asyncpg.connect(postgres.dsn)
        persister = OneConnection(other, writer.lease)
        await _store(writer, 1, None, [_root(7), _root(8), _root(9)])
        async with other.transaction():
            await _store(persister, 2, 7)
            await _store(persister, 3, None, [_child(20, 8, 1)])
            assert (await reclaim_snapshots(writer.write)).deleted == 1  # 9: 7 and 8 are locked
        assert await _walks(writer, 500) == 2  # 20, which no event names, and then 8
        assert await _left(writer.conn) == [7]
        await other.close()


async def test_write_that_names_a_deleted_snapshot_is_refused(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        other = await asyncpg.connect(postgres.dsn)
        persister = OneConnection(other, writer.lease)
        await _store(writer, 1, None, [_root(7)])
        for nid, state_nid, snapshots, constraint in (
            (2, 7, [], "events_state_nid_fkey"),
            (3, None, [_child(20, 7, 1)], "state_snapshots_parent_fkey"),
        ):
            # The reclaimer has deleted the snapshot and not committed yet: the persister waits.
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


async def test_snapshot_that_is_named_during_the_deletion_stays(postgres: TestDatabase) -> None:
    """The reclaimer's statement is refused. It continues with smaller ones, and leaves that snapshot out."""
    async with writing(postgres.dsn) as writer:
        conn = writer.conn
        await _store(writer, 1, None, [_root(n) for n in (5, 600, 7000, 8000)])
        # A trigger names snapshot 600 while its row is being deleted.
        await conn.execute(
            """CREATE FUNCTION name_it() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN IF OLD.nid = 600 THEN UPDATE events SET state_nid = 600 WHERE event_nid = 1; END IF;
               RETURN OLD; END $$;
               CREATE TRIGGER name_it BEFORE DELETE ON state_snapshots FOR EACH ROW EXECUTE FUNCTION name_it()"""
        )
        assert sum([count async for count in reclaim_all_of_room(writer.write, 1)]) == 3
        assert await _left(conn) == [600]
