"""Rows that are read to repair a gap: they equal the rows of the lost frames."""

from shared.core.identifiers import RoomId, UserId
from shared.storage.events.batch import ChangeToStore, EventBatch, MembershipToStore, RoomToStore
from shared.storage.events.commit import commit_events
from shared.storage.streams.catch_up import ACCOUNT_DATA, EVENTS, PUSH_RULES, pages
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import event, writing

ODD = "a\x00b\x1a0\x1a1"


async def test_text_with_nul_survives_catch_up(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        batch = EventBatch(
            events=[
                event(1, 10, 1, ODD, state_key=ODD, sender=f"@{ODD}:b"),
                event(1, 11, 2, "m.room.message", resolved=True),
            ],
            extremities={1: [11]},
            changes=[
                ChangeToStore(10, 1, ODD, ODD, 10, None),
                ChangeToStore(11, 2, "m.room.member", f"@{ODD}:c", 10, None),
            ],
            memberships=[MembershipToStore(11, UserId(f"@{ODD}:c"), "join", 10, UserId(f"@{ODD}:d"), True)],
            rooms=[RoomToStore(1, RoomId("!r:b"), "1", "@a:b", True, 1)],
        )
        await commit_events(writer.write, batch)
        async with writer.conn.transaction(isolation="repeatable_read", readonly=True):
            [[first, second]] = [page async for page in pages(writer.conn, EVENTS, 0, 10)]
        assert (first["type"], first["state_key"], first["sender"]) == (ODD, ODD, f"@{ODD}:b")
        assert second["members"] == ((f"@{ODD}:c", "join", 10, f"@{ODD}:d"),)


async def test_pages_are_bounded_by_the_size_of_their_lists(postgres: TestDatabase) -> None:
    """A user's row has a list of ignored users, which may be long."""
    async with writing(postgres.dsn) as writer:
        await writer.conn.execute(
            """INSERT INTO push_rules (user_id, ignored, writer, position)
               SELECT '@u' || n || ':x', array(SELECT '@spammer' || k || ':x' FROM generate_series(1, 2000) k), 1, n
               FROM generate_series(1, 150) n"""
        )
        async with writer.conn.transaction(isolation="repeatable_read", readonly=True):
            sizes = [len(page) async for page in pages(writer.conn, PUSH_RULES, 0, 1000)]
        assert sum(sizes) == 150 and max(sizes) < 30


async def test_pages_of_a_repair_are_bounded_by_bytes(postgres: TestDatabase) -> None:
    """A row of account data may have a megabyte: few of them are a page. Small rows fill pages of the whole size."""
    insert = """
        INSERT INTO account_data (user_id, room_id, type, json, writer, position)
        SELECT '@a:x', '', 't' || n, convert_to(repeat('x', $2), 'UTF8'), 1, n FROM generate_series($1::int, $3::int) n
    """
    async with writing(postgres.dsn) as writer:
        await writer.conn.execute(insert, 1, 600_000, 60)
        large = [page async for page in pages(writer.conn, ACCOUNT_DATA, 0, 1000)]
        assert [row["position"] for page in large for row in page] == list(range(1, 61))
        assert [len(page) for page in large][:2] == [16, 6]
        assert all(sum(len(row["json"]) for row in page) < 10 << 20 for page in large)
        await writer.conn.execute(insert, 61, 10, 3000)
        small = [page async for page in pages(writer.conn, ACCOUNT_DATA, 60, 1000)]
        assert [row["position"] for page in small for row in page] == list(range(61, 3001))
        assert max(map(len, small)) == 1000 and len(small) < 8
