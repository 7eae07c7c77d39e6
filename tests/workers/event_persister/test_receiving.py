"""Events of other servers: states given once, outliers in bulk, slow rooms that are polled, history beside sends."""

import asyncio
from typing import Any

import pytest

from replication.bus.wire import MAX_FRAME_BYTES, decode_frame
from shared.core.events import Event
from shared.core.events import event as events_module
from shared.core.identifiers import EventId, RoomId, UserId
from shared.operations.store_outliers import OutlierRoom, OutlierStore
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.events.commit import commit_events
from shared.storage.removal.unused_snapshots import reclaim_snapshots
from shared.storage.streams.ends import get_stored_positions
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.workers.event_persister.graph_model import Graph
from tests.workers.event_persister.graph_rig import (
    BOB,
    CAROL,
    begin,
    check_stored,
    deliver,
    give_state,
    outcomes,
    pdu,
    receive,
    unstorable,
)
from workers.event_persister.commit import committer
from workers.event_persister.graph import state_entries
from workers.event_persister.graph.resolver import Resolver
from workers.event_persister.receiving import deliveries


def joined(graph: Graph, user_id: UserId, *previous: EventId) -> Event:
    ends = previous or sorted(graph.extremities)
    return graph.make(ends, user_id, "m.room.member", {"membership": "join"}, user_id)


async def with_bob(persister: Persister, version_name: str = "10") -> tuple[RoomId, Graph, Any, Event]:
    room_id, graph, alice = await begin(persister, version_name)
    bob = joined(graph, BOB)
    graph.arrive(bob)
    await deliver(persister, room_id, [bob])
    return room_id, graph, alice, bob


def members(graph: Graph, count: int, previous: EventId) -> list[Event]:
    """Return joins of as many users of another server, which all follow one event."""
    return [joined(graph, UserId(f"@u{number}:b.example"), previous) for number in range(count)]


def lost_and_late(graph: Graph, number: int) -> tuple[Event, Event]:
    """Return an event that never arrives, and one that follows it."""
    lost = graph.make(sorted(graph.extremities), BOB, "m.room.message", {"lost": number})
    graph.events[lost.event_id] = lost
    graph.before[lost.event_id], graph.outcome[lost.event_id] = dict(graph.current), "accepted"
    return lost, graph.make([lost.event_id], BOB, "m.room.message", {"late": number})


async def snapshots(persister: Persister, room_id: str) -> list[int]:
    sql = "SELECT nid FROM state_snapshots JOIN rooms USING (room_nid) WHERE room_id = $1"
    return [row[0] for row in await persister.sql(sql, room_id)]


async def room_nid(persister: Persister, room_id: str) -> int:
    [row] = await persister.sql("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
    nid: int = row[0]
    return nid


def outlier_store(persister: Persister) -> OutlierStore:
    foundation = persister.foundation
    numbers = NumberBlock(foundation.database, "event_nids")
    return OutlierStore(foundation.database, foundation.writer.write, numbers)


def forbid_json(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> dict[int, bytes]:
        raise AssertionError("the JSON of a state was read")

    monkeypatch.setattr(state_entries, "get_json", refuse)


# -- states


async def test_state_is_stored_once_for_all_events_above_a_gap_and_read_without_json(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        joins = members(graph, 100, bob.event_id)
        assert set(outcomes(await deliver(persister, room_id, joins, outlier=True)).values()) == {"accepted"}
        state = [*graph.current.values(), *(event.event_id for event in joins)]
        forbid_json(monkeypatch)
        before = await snapshots(persister, room_id)
        given = await give_state(persister, room_id, state)
        assert (await give_state(persister, room_id, state[::-1]))["state"] == given["state"], "the same state"
        late = [lost_and_late(graph, number)[1] for number in range(5)]
        results = (await receive(persister, room_id, [pdu(e, state_before=given["state"]) for e in late]))["results"]
        assert set(outcomes(results).values()) == {"accepted"}
        rows = {row["event_id"]: row["state_nid"] for row in await persister.timeline(room_id)}
        assert rows[late[0].event_id] == given["state"]
        assert {rows[event.event_id] for event in late} == {given["state"]}
        assert await snapshots(persister, room_id) == [*before, given["state"]], "one row for all of them"
        await check_stored(persister, room_id)


async def test_given_state_that_was_reclaimed_must_be_given_again(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, _, _ = await with_bob(persister)
        _, late = lost_and_late(graph, 1)
        state = [event_id for key, event_id in graph.current.items() if key != ("m.room.member", BOB)]
        state.append(graph.current["m.room.member", BOB])
        first = await give_state(persister, room_id, state)
        assert (await reclaim_snapshots(persister.foundation.writer.write)).deleted == 1
        answer = (await receive(persister, room_id, [pdu(late, state_before=first["state"])]))["results"][late.event_id]
        assert (answer["outcome"], answer["lacks_state"]) == ("missing", True)
        again = await give_state(persister, room_id, state)
        assert again["state"] != first["state"]
        results = (await receive(persister, room_id, [pdu(late, state_before=again["state"])]))["results"]
        assert outcomes(results) == {late.event_id: "accepted"}
        # Now it is stored, it needs no state.
        results = (await receive(persister, room_id, [pdu(late, state_before=first["state"])]))["results"]
        assert outcomes(results) == {late.event_id: "accepted"}


async def test_events_that_the_reader_has_checked_are_not_checked_again(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        said = graph.make([bob.event_id], BOB, "m.room.message", {"body": "hi"})

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("checked twice")

        monkeypatch.setattr(events_module, "check_format", refuse)
        monkeypatch.setattr(events_module, "event_id_of", refuse)
        results = (await receive(persister, room_id, [pdu(said)]))["results"]
        assert outcomes(results) == {said.event_id: "accepted"}


@pytest.mark.parametrize("way", ["live", "outlier", "history"])
async def test_event_that_the_reader_has_rejected_stays_rejected(postgres_module: TestDatabase, way: str) -> None:
    """Only the reader sees that the authorising server of a restricted join has not signed it."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        rejection = ["4.2.1 member/authorised", "the authorising server has not validly signed"]
        join = joined(graph, CAROL, bob.event_id)
        options: dict[str, Any] = {"rejection": rejection}
        if way == "outlier":
            options["outlier"] = True
        elif way == "history":
            graph.arrive(join)
            late = graph.make([join.event_id], BOB, "m.room.message", {"body": "late"})
            state = list(graph.before[join.event_id].values())
            assert outcomes(await deliver(persister, room_id, [late], state_before=state))[late.event_id] == "accepted"
            [row] = [row for row in await persister.timeline(room_id) if row["event_id"] == late.event_id]
            options["anchor"] = row["ordinal"]
        result = (await receive(persister, room_id, [pdu(join, **options)]))["results"][join.event_id]
        assert (result["outcome"], result["reason"]) == ("rejected", " ".join(rejection))
        rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
        assert (rows[join.event_id]["status"], rows[join.event_id]["ordinal"]) == (2, None)
        said = graph.make([bob.event_id], CAROL, "m.room.message", {"body": "in?"}, auth_in=graph.current)
        assert outcomes(await deliver(persister, room_id, [said]))[said.event_id] == "rejected"


async def test_event_above_a_large_state_is_announced_in_small_frames(postgres: TestDatabase) -> None:
    """Readers learn of it at once, and read the members from Postgres."""
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        joins = members(graph, 3000, bob.event_id)
        for first in range(0, len(joins), 200):
            await deliver(persister, room_id, joins[first : first + 200], outlier=True)
        _, late = lost_and_late(graph, 1)
        state = [*graph.current.values(), *(event.event_id for event in joins)]
        published = len(persister.bus.published)
        loads = persister.metric("skep_persister_room_loads_total")
        sends = [asyncio.create_task(alice.send(room_id, f"{number}")) for number in range(20)]
        assert outcomes(await deliver(persister, room_id, [late], state_before=state)) == {late.event_id: "accepted"}
        assert {(await sent).status for sent in sends} == {200}, "a send that waits is not lost"
        frames = [decode_frame(message) for channel, message in persister.bus.published[published:]]
        assert max(len(message) for _, message in persister.bus.published[published:]) <= MAX_FRAME_BYTES
        assert [frame.previous == frame.current and not frame.rows for frame in frames].count(True) == 1
        # Taking in 3,000 changes at once would hold up the loop: the room is read again.
        assert (await alice.send(room_id, "still here")).status == 200
        assert persister.metric("skep_persister_room_loads_total") == loads + 1
        nid = await room_nid(persister, room_id)
        [row] = await persister.sql("SELECT count(*) FROM memberships WHERE room_nid = $1", nid)
        assert row[0] == 3000 + 2
        texts = {row["event_id"] for row in await persister.timeline(room_id) if row["type"] == "m.room.message"}
        assert len(texts) == 20 + 1 + 1
        await check_stored(persister, room_id)


# -- outliers


async def test_outliers_of_a_call_are_stored_by_one_statement(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        joins = members(graph, 200, bob.event_id)
        before = persister.foundation.writer.statements
        assert set(outcomes(await deliver(persister, room_id, joins, outlier=True)).values()) == {"accepted"}
        assert persister.foundation.writer.statements == before + 1
        rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
        assert {rows[e.event_id]["membership"] for e in joins} == {"join"}
        assert set(outcomes(await deliver(persister, room_id, joins, outlier=True)).values()) == {"accepted"}
        assert persister.foundation.writer.statements == before + 1, "they are here already"


async def test_stored_outliers_do_not_look_like_events_that_were_never_announced(postgres: TestDatabase) -> None:
    """Readers do not follow them. The probe of the streams would report a stalled writer."""
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        await deliver(persister, room_id, members(graph, 10, bob.event_id), outlier=True)
        stored = await get_stored_positions(persister.foundation.database, "events", 0)
        assert stored == {persister.foundation.lease: persister.bus.rows()[-1].position}


async def test_outlier_that_the_database_refuses_fails_alone(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister, "1")
        joins = members(graph, 20, bob.event_id)
        stolen = await unstorable(persister, graph)
        results = outcomes(await deliver(persister, room_id, [*joins[:7], stolen, *joins[7:]], outlier=True))
        assert [event_id for event_id, outcome in results.items() if outcome == "dropped"] == [stolen.event_id]
        assert {results[event.event_id] for event in joins} == {"accepted"}
        await check_stored(persister, room_id)


async def test_outliers_that_two_processes_store_at_once_are_stored_once(
    postgres_module: TestDatabase,
) -> None:
    """They need no order and no owner. Neither process loses one, and references lead to the stored rows."""
    async with event_persister(postgres_module.dsn) as one, event_persister(postgres_module.dsn) as other:
        room_id, graph, _, bob = await with_bob(one)
        room = OutlierRoom(await room_nid(one, room_id), graph.version, graph.create)
        joins = members(graph, 300, bob.event_id)
        for event in joins:
            graph.arrive(event)
        leaves = [graph.make([e.event_id], e.sender, "m.room.member", {"membership": "leave"}, e.sender) for e in joins]
        stores = [outlier_store(one), outlier_store(other)]
        mine, theirs = await asyncio.gather(
            stores[0].store(room, [*joins, *leaves]), stores[1].store(room, [*leaves[::-1], *joins[::-1]])
        )
        for outcome in (mine, theirs):
            assert len(outcome.stored) == 600
            assert not (outcome.missing or outcome.refused or outcome.circular)
        assert {e: s.event_nid for e, s in mine.stored.items()} == {e: s.event_nid for e, s in theirs.stored.items()}
        await check_stored(one, room_id)


async def test_event_that_came_in_between_is_looked_up_again(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process stores it as an outlier just before it is stored with its place."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        topic = graph.make([bob.event_id], BOB, "m.room.topic", {"topic": "x"}, "")
        room, store = (
            OutlierRoom(await room_nid(persister, room_id), graph.version, graph.create),
            outlier_store(persister),
        )
        commit = commit_events
        calls = 0

        async def commit_later(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                await store.store(room, [topic])
            return await commit(*args)

        monkeypatch.setattr(committer, "commit_events", commit_later)
        assert outcomes(await deliver(persister, room_id, [topic])) == {topic.event_id: "accepted"}
        assert (await persister.content(room_id, "m.room.topic")) == {"topic": "x"}
        await check_stored(persister, room_id)


# -- slow rooms


class SlowResolver:
    """Resolutions wait until they may go on. begun: how many have begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.waits = asyncio.Event()
        self.may_go_on = asyncio.Event()
        resolve = Resolver.resolve

        async def slow(resolver: Resolver, *args: Any) -> Any:
            self.begun += 1
            self.waits.set()
            await self.may_go_on.wait()
            return await resolve(resolver, *args)

        monkeypatch.setattr(Resolver, "resolve", slow)


def conflict(graph: Graph, at: EventId) -> list[Event]:
    """Return two topics on branches from one event."""
    return [graph.make([at], BOB, "m.room.topic", {"topic": name}, "", auth_in=graph.after(at)) for name in "xy"]


async def test_slow_room_is_polled_and_resolves_once(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        fork = conflict(graph, bob.event_id)
        slow = SlowResolver(monkeypatch)
        pdus = [pdu(event) for event in fork]
        answer = await receive(persister, room_id, pdus, wait_s=0.05)
        assert answer == {"results": {}, "has_room": True, "is_finished": False}
        assert not (await receive(persister, room_id, pdus, wait_s=0.0))["is_finished"]
        waiting = [asyncio.create_task(receive(persister, room_id, pdus)) for _ in range(3)]
        await slow.waits.wait()
        assert (await asyncio.wait_for(alice.send(room_id, "meanwhile"), 10)).status == 200
        slow.may_go_on.set()
        for answer in await asyncio.gather(*waiting):
            assert answer["is_finished"]
            assert outcomes(answer["results"]) == {event.event_id: "accepted" for event in fork}
        assert slow.begun <= 2, "the callers share one delivery; the send in between may have it resolved again"
        await check_stored(persister, room_id)


async def test_result_waits_for_its_caller(postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        fork = conflict(graph, bob.event_id)
        slow = SlowResolver(monkeypatch)
        pdus = [pdu(event) for event in fork]
        assert not (await receive(persister, room_id, pdus, wait_s=0.0))["is_finished"]
        slow.may_go_on.set()
        while len(await persister.timeline(room_id)) < 2 + len(graph.events):  # noqa: ASYNC110 - only the table tells
            await asyncio.sleep(0.01)
        answer = await receive(persister, room_id, pdus, wait_s=0.0)
        assert answer["is_finished"] and set(outcomes(answer["results"]).values()) == {"accepted"}


@pytest.mark.parametrize(("bound", "value"), [("_MAX_UNDER_WAY", 1), ("_MAX_BYTES", 2000)])
async def test_deliveries_under_way_are_bounded(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(deliveries, bound, value)
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        slow = SlowResolver(monkeypatch)
        fork = [pdu(event) for event in conflict(graph, bob.event_id)]
        assert not (await receive(persister, room_id, fork, wait_s=0.0))["is_finished"]
        path = f"/_skep/rooms/{room_id}/receive"
        said = [pdu(graph.make([bob.event_id], BOB, "m.room.message", {"body": "x" * 1000}))]
        refused = await persister.internal("POST", path, {"pdus": said})
        assert (refused.status, refused.json["errcode"]) == (503, "M_UNKNOWN")
        slow.may_go_on.set()
        assert (await receive(persister, room_id, fork))["is_finished"]


async def test_history_does_not_stop_the_sends_of_its_room(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of history needs a resolution. Meanwhile messages and state are sent, and both are right afterwards."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        missed = conflict(graph, bob.event_id)
        for event in missed:
            graph.arrive(event)
        merge = graph.make([event.event_id for event in missed], BOB, "m.room.message", {"body": "merge"})
        graph.arrive(merge)
        late = graph.make([merge.event_id], BOB, "m.room.message", {"body": "late"})
        given = list(graph.after(merge.event_id).values())
        await deliver(persister, room_id, [event for event in missed if event.event_id in given], outlier=True)
        assert outcomes(await deliver(persister, room_id, [late], state_before=given)) == {late.event_id: "accepted"}
        slow = SlowResolver(monkeypatch)
        row = next(row for row in await persister.timeline(room_id) if row["event_id"] == late.event_id)
        history = [pdu(event, anchor=row["ordinal"]) for event in [merge, *missed]]
        chunk = asyncio.create_task(receive(persister, room_id, history))
        await slow.waits.wait()
        for number in range(5):
            assert (await asyncio.wait_for(alice.send(room_id, f"{number}"), 10)).status == 200
        answer = await asyncio.wait_for(alice.put_state(room_id, "m.room.name", {"name": "new"}), 10)
        assert answer.status == 200
        assert not chunk.done()
        slow.may_go_on.set()
        assert set(outcomes((await chunk)["results"]).values()) == {"accepted"}
        assert (await persister.content(room_id, "m.room.name")) == {"name": "new"}
        await check_stored(persister, room_id)
