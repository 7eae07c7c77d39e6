"""Auth chains in pages, on a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from load.state_resolution import MadeUpRoom
from shared.core.identifiers import EventId
from shared.core.room_versions import get_room_version
from shared.operations.auth_chains import AuthChains
from shared.storage.engine.pool import Database, connector
from shared.storage.engine.text_codec import set_text_codec
from shared.storage.events.auth_chains import ChainEvent, get_auth_chain_page
from tests.fix_servers import TestDatabase
from tests.workers.event_persister.stored_rooms import store_room

Page = Callable[..., Awaitable[list[ChainEvent]]]


async def test_page_has_the_events_and_their_auth_chains_within_limits(postgres: TestDatabase) -> None:
    room = MadeUpRoom(get_room_version("11"), members=5, changes=4, fights=3)
    ids = list(room.events)
    newest, gone, refused, erased = ids[-1], ids[-2], ids[5], ids[6]
    await store_room(
        postgres.dsn,
        room,
        1,
        missing=frozenset({gone}),
        rejected=frozenset({refused}),
        redacted=frozenset({erased}),
    )
    conn = await asyncpg.connect(postgres.dsn)
    set_text_codec(conn)

    async def page(*event_ids: EventId, events: int = 1000, size: int = 1 << 20, nid: int = 1) -> list[ChainEvent]:
        return await get_auth_chain_page(conn, nid, event_ids, max_events=events, max_bytes=size)

    chain = {newest}
    for event_id in reversed(ids):
        if event_id in chain:
            chain |= set(room.events[event_id].auth_event_ids)
    whole = await page(newest)
    assert {row.event_id for row in whole} == chain - {gone}
    assert all(row.json for row in whole)

    flags = {row.event_id: (row.rejected, row.redacted) for row in await page(*ids)}
    assert {event_id for event_id, flag in flags.items() if flag == (True, False)} == {refused}
    assert {event_id for event_id, flag in flags.items() if flag == (False, True)} == {erased}
    assert set(ids) - set(flags) == {gone}

    assert await page(gone, EventId("$unknown"), EventId("$\x00")) == []
    assert await page(newest, nid=2) == []
    assert await page() == []
    # The given events come before their chains. Events beyond the size limit have no JSON.
    asked = ids[-10:-5]
    assert {row.event_id for row in await page(*asked, events=1)} == set(asked)
    near = await page(ids[-4], events=3)
    assert {row.event_id for row in near} <= {ids[-4], *room.events[ids[-4]].auth_event_ids}
    assert len(near) == 3
    small = await page(gone, *asked, size=1)
    assert [row.event_id for row in small if row.json is not None] == [asked[0]]
    assert {row.event_id for row in small} >= set(asked)
    await conn.close()


async def test_auth_chain_of_a_state_is_numbers_and_ids_without_json(postgres: TestDatabase) -> None:
    """The graph of the room is read once, in pages, and kept."""
    room = MadeUpRoom(get_room_version("11"), members=300, changes=40, fights=30)
    ids = list(room.events)
    gone = ids[len(ids) // 2]
    await store_room(postgres.dsn, room, 1, missing=frozenset({gone}))
    nids = {event_id: 1_000_000 + number for number, event_id in enumerate(ids, 1)}
    asked = [event_id for event_id in ids[-200:] if event_id != gone]
    chain: set[EventId] = set()
    pending = list(asked)
    while pending:
        event_id = pending.pop()
        if event_id == gone:
            continue
        for auth in room.events[event_id].auth_event_ids:
            if auth not in chain:
                chain.add(auth)
                pending.append(auth)
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    try:
        chains = AuthChains(database, 16 << 20)
        one, other = await asyncio.gather(*(chains.chain_of(1, [nids[e] for e in asked]) for _ in range(2)))
        assert sorted(one) == sorted(other) == sorted(nids[event_id] for event_id in chain)
        pages = [page async for page in chains.ids(1, one)]
        assert {event_id for page in pages for event_id in page} == chain - {gone}
        before = database.statements
        assert await chains.chain_of(1, [nids[ids[-1]]])
        assert database.statements == before, "the graph is in memory"
        assert await chains.chain_of(2, [5]) == []
    finally:
        await database.close()


async def test_graphs_beyond_the_budget_are_read_again(postgres: TestDatabase) -> None:
    room = MadeUpRoom(get_room_version("11"), members=20, changes=4, fights=3)
    await store_room(postgres.dsn, room, 1)
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    try:
        chains = AuthChains(database, 1)
        last = 1_000_000 + len(room.events)
        first = await chains.chain_of(1, [last])
        before = database.statements
        assert await chains.chain_of(1, [last]) == first
        assert database.statements > before
    finally:
        await database.close()
