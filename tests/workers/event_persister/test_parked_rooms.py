"""Rooms whose state cannot be resolved within the limits: parked, visible, and tried again when an operator says so."""

from typing import Any

import pytest

from shared.config.sections import Caches
from shared.core.events import Event
from shared.core.identifiers import RoomId
from shared.storage.rooms.parked import count_parked_rooms, get_parked_rooms, release_room
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.worker import make_config
from tests.workers.event_persister.graph_rig import BOB, begin, check_stored, deliver, forget_rooms, outcomes
from workers.event_persister.graph import parked_rooms
from workers.event_persister.graph.resolution_events import TooLong, TooMuch
from workers.event_persister.graph.resolver import Resolver

REASON = "The room's forks reach too far back"


class Refusals:
    """Resolutions are refused with this error, while there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
        self.error = error
        self.count = 0
        resolve = Resolver.resolve

        async def refuse(resolver: Resolver, *args: Any) -> Any:
            self.count += 1
            if self.error is not None:
                raise self.error
            return await resolve(resolver, *args)

        monkeypatch.setattr(Resolver, "resolve", refuse)


async def forked(persister: Persister) -> tuple[RoomId, User, list[Event]]:
    """Return a room with Bob in it, and two of his topics on branches."""
    room_id, graph, alice = await begin(persister, "10")
    bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
    graph.arrive(bob)
    await deliver(persister, room_id, [bob])
    fork = [graph.make([bob.event_id], BOB, "m.room.topic", {"topic": name}, "") for name in "xy"]
    return room_id, alice, fork


async def test_room_that_needs_too_much_is_parked_until_an_operator_releases_it(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked_rooms, "_READ_AGAIN_AFTER_S", 0.0)
    async with event_persister(postgres.dsn) as persister:
        room_id, alice, fork = await forked(persister)
        refusals = Refusals(monkeypatch, TooMuch(REASON))
        results = await deliver(persister, room_id, fork)
        assert outcomes(results) == {fork[0].event_id: "accepted", fork[1].event_id: "parked"}
        assert REASON in results[fork[1].event_id]["reason"]
        # It is not tried again, neither by this process nor by the next one.
        tried = refusals.count
        assert outcomes(await deliver(persister, room_id, fork[1:])) == {fork[1].event_id: "parked"}
        forget_rooms(persister)
        assert outcomes(await deliver(persister, room_id, fork[1:])) == {fork[1].event_id: "parked"}
        assert refusals.count == tried
        # Everything that needs no resolution goes on.
        assert (await alice.send(room_id, "hi")).status == 200
        assert (await alice.put_state(room_id, "m.room.name", {"name": "x"})).status == 200
        # It is seen.
        [parked] = await get_parked_rooms(persister.foundation.database, 10)
        assert (parked.room_id, parked.parked_reason) == (room_id, REASON)
        assert await count_parked_rooms(persister.foundation.database) == 1
        assert persister.metric("skep_state_resolution_rooms_parked_total") == 1
        # And released.
        refusals.error = None
        assert await release_room(persister.foundation.writer.write, room_id)
        assert not await release_room(persister.foundation.writer.write, room_id)
        assert outcomes(await deliver(persister, room_id, fork[1:])) == {fork[1].event_id: "accepted"}
        assert await count_parked_rooms(persister.foundation.database) == 0
        await check_stored(persister, room_id)


async def test_room_is_parked_after_several_resolutions_that_take_too_long(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once may be the machine's fault."""
    async with event_persister(postgres.dsn) as persister:
        room_id, _, fork = await forked(persister)
        await deliver(persister, room_id, fork[:1])
        refusals = Refusals(monkeypatch, TooLong("The room's forks take too long"))
        path = f"/_skep/rooms/{room_id}/receive"
        body = {"pdus": [{"event_id": fork[1].event_id, "pdu": dict(fork[1].pdu)}]}
        for _ in range(2):
            assert (await persister.internal("POST", path, body)).status == 503
        assert outcomes(await deliver(persister, room_id, fork[1:])) == {fork[1].event_id: "parked"}
        assert refusals.count == 3


async def test_forks_beyond_the_configured_budget_park_the_room(postgres: TestDatabase) -> None:
    config = make_config(caches=Caches(resolutions_bytes=1))
    async with event_persister(postgres.dsn) as starting:
        room_id, _, fork = await forked(starting)
        await deliver(starting, room_id, fork[:1])
    async with event_persister(postgres.dsn, config=config) as persister:
        assert outcomes(await deliver(persister, room_id, fork[1:])) == {fork[1].event_id: "parked"}
        assert (await persister.user("alice").send(room_id, "hi")).status == 200
