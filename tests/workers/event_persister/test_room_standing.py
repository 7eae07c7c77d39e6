"""Rooms whose state other servers have: known here by an invite or a knock, and never taken for ours."""

from typing import Any
from urllib.parse import quote

from shared.core.events import Event
from shared.core.identifiers import RoomId, UserId
from shared.operations.check_rooms import check_room
from shared.operations.store_outliers import OutlierRoom, OutlierStore
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.federation.standing import Standing, add_outside_room, change_standing, get_standing
from shared.storage.removal.delete_room import delete_room_batches, mark_room_deleted
from shared.storage.rooms.public_facts import get_published_rooms
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.rigs.worker import SERVER
from tests.workers.event_persister.graph_model import Graph
from tests.workers.event_persister.graph_rig import BOB, begin, deliver, pdu, receive

STRIPPED = b'[{"type":"m.room.name","state_key":"","sender":"@b:b.example","content":{"name":"There"}}]'


async def invited(persister: Persister, origin: Persister) -> tuple[RoomId, int, Graph, Event]:
    """Let a room exist elsewhere, from which a user of ours is invited. Return also its number here."""
    room_id, graph, _ = await begin(origin, "11")
    bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
    graph.arrive(bob)
    user_id = UserId(f"@carol:{SERVER}")
    invite = graph.make([bob.event_id], BOB, "m.room.member", {"membership": "invite"}, user_id)
    numbers = NumberBlock(persister.foundation.database, "room_nids")
    await numbers.reserve(1)
    nid = await add_outside_room(persister.foundation.writer.write, numbers.take(), room_id, "11", STRIPPED)
    assert nid is not None
    return room_id, nid, graph, invite


async def rows_of(persister: Persister, nid: int) -> list[Any]:
    return await persister.sql("SELECT event_id, status, ordinal, membership FROM events WHERE room_nid = $1", nid)


async def test_room_known_by_an_invite_is_not_ours(postgres: TestDatabase, postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as origin, event_persister(postgres.dsn) as persister:
        room_id, nid, graph, invite = await invited(persister, origin)
        database, write = persister.foundation.database, persister.foundation.writer.write
        known = await get_standing(database, room_id)
        assert known is not None
        assert (known.room_nid, known.standing, known.stripped_state) == (nid, Standing.OUTSIDE, STRIPPED)
        # The same room again has the same number, with what the latest invite tells. Its version cannot change.
        assert await add_outside_room(write, nid + 5, room_id, "11", b"[]") == nid
        assert await add_outside_room(write, nid + 5, room_id, "10", b"[1]") is None
        # The invite is stored as an outlier, once its auth events are.
        store = OutlierStore(database, write, NumberBlock(database, "event_nids"))
        room = OutlierRoom(nid, graph.version, graph.create)
        assert (await store.store(room, [invite])).missing
        outcomes = await store.store(room, [*graph.events.values(), invite])
        assert outcomes.stored.keys() == {*graph.events, invite.event_id}
        rows = {row["event_id"]: tuple(row)[1:] for row in await rows_of(persister, nid)}
        assert rows[invite.event_id] == (3, None, "invite")
        # Nobody takes it for a room that is here.
        assert not (await receive(persister, room_id, [pdu(invite)]))["has_room"]
        carol = persister.user("carol")
        assert (await carol.send(room_id, "hi")).status == 403
        assert (await carol.call("PUT", f"/rooms/{quote(room_id, safe='')}/state/m.room.name", {})).status == 403
        assert await get_published_rooms(database, 10) == []
        assert await check_room(database, room_id, server_name=SERVER) == []
        # It can be deleted like any other room.
        assert await mark_room_deleted(write, room_id) == nid
        assert sum([deleted async for deleted in delete_room_batches(write, nid)]) > 0
        assert await get_standing(database, room_id) is None and not await rows_of(persister, nid)


async def test_standing_changes_only_from_the_expected_one(postgres: TestDatabase) -> None:
    """Two users who join at once begin one handshake."""
    async with event_persister(postgres.dsn) as persister:
        database, write = persister.foundation.database, persister.foundation.writer.write
        nid = await add_outside_room(write, 77, RoomId("!there:b.example"), "11", STRIPPED)
        assert nid == 77
        assert await change_standing(write, nid, Standing.OUTSIDE, Standing.JOINING)
        assert not await change_standing(write, nid, Standing.OUTSIDE, Standing.JOINING)
        assert await change_standing(write, nid, Standing.JOINING, Standing.OURS)
        known = await get_standing(database, RoomId("!there:b.example"))
        assert known is not None and known.stripped_state is None
        assert await add_outside_room(write, 78, RoomId("!there:b.example"), "11", b"[]") is None, "it is ours"


async def test_room_that_we_left_accepts_nothing_upon_its_old_state(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, _ = await begin(persister, "11")
        bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        known = await get_standing(persister.foundation.database, room_id)
        assert known is not None and known.standing is Standing.OURS
        assert await change_standing(persister.foundation.writer.write, known.room_nid, Standing.OURS, Standing.LEFT)
        async with event_persister(postgres.dsn) as second:
            said = graph.make([bob.event_id], BOB, "m.room.message", {"body": "hi"})
            assert not (await receive(second, room_id, [pdu(said)]))["has_room"]
            assert (await second.user("alice").send(room_id, "hi")).status == 403
