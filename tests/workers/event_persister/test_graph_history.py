"""Outliers, missing predecessors, and history that fills the gaps, compared with the model."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.removal.purge import purge_batches, start_purge
from shared.storage.removal.purge_statements import RETIRED
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.workers.event_persister.graph_model import Graph, RandomEvents, State
from tests.workers.event_persister.graph_rig import (
    BOB,
    CAROL,
    DAVE,
    begin,
    check_stored,
    deliver,
    deliver_pdus,
    forget_rooms,
    outcomes,
    pdu,
    state_before,
    unstorable,
)

VERSIONS = ["1", "6", "11", "12"]


async def row_of(persister: Persister, event_id: EventId) -> Any:
    [row] = await persister.sql("SELECT * FROM events WHERE event_id = $1", event_id)
    return row


async def gaps_of(persister: Persister, room_id: RoomId) -> dict[int, set[str]]:
    rows = await persister.sql(
        "SELECT anchor, missing FROM gaps JOIN rooms USING (room_nid) WHERE room_id = $1", room_id
    )
    return {row["anchor"]: set(row["missing"]) for row in rows}


async def extremities_of(persister: Persister, room_id: RoomId) -> set[str]:
    rows = await persister.sql(
        """SELECT e.event_id FROM forward_extremities f JOIN rooms r USING (room_nid)
           JOIN events e ON e.room_nid = f.room_nid AND e.event_nid = ANY(f.event_nids) WHERE r.room_id = $1""",
        room_id,
    )
    return {row["event_id"] for row in rows}


def join(graph: Graph, user_id: UserId, *previous: EventId, **content: Any) -> Event:
    return graph.make(
        previous or sorted(graph.extremities), user_id, "m.room.member", {"membership": "join", **content}, user_id
    )


def auth_closure(graph: Graph, state: State) -> list[Event]:
    """Return the state's events and their auth chains, each event after its auth events."""
    found: dict[str, Event] = {}

    def visit(event_id: EventId) -> None:
        if event_id not in found:
            for named in graph.events[event_id].auth_event_ids:
                visit(named)
            found[event_id] = graph.events[event_id]

    for event_id in state.values():
        visit(event_id)
    return list(found.values())


class Elsewhere:
    """The events at another server while we receive nothing. They are added to the model and delivered later."""

    def __init__(self, graph: Graph, seed: int, locals_: Sequence[UserId], count: int) -> None:
        self.shadow = graph
        maker = RandomEvents(graph, random.Random(seed), [BOB, CAROL, DAVE], locals_)
        self.missed: list[Event] = []
        start = set(graph.events)
        while len(self.missed) < count:
            event = maker.next()
            # They follow our latest events or each other.
            if event.event_id not in graph.events and not start - set(graph.extremities) & set(event.prev_event_ids):
                graph.arrive(event)
                self.missed.append(event)
        ends = sorted(graph.extremities)
        self.latest = graph.make(ends, BOB, "m.room.message", {"body": "latest"})
        self.before = graph.resolved(ends)
        graph.arrive(self.latest)


async def missed_history(
    persister: Persister, version_name: str, seed: int, count: int
) -> tuple[RoomId, Graph, Elsewhere, dict[str, str]]:
    """Deliver a live event whose predecessors are missing, with the state before it from another server."""
    room_id, graph, alice = await begin(persister, version_name)
    for event in (join(graph, BOB), join(graph, CAROL)):
        graph.arrive(event)
        await deliver(persister, room_id, [event])
        graph.extremities = {event.event_id}
    elsewhere = Elsewhere(graph, seed, [alice.user_id], count)
    known = {row["event_id"] for row in await persister.timeline(room_id)}
    state = auth_closure(graph, elsewhere.before)
    pdus = [pdu(event, outlier=True) for event in state if event.event_id not in known]
    answers = await deliver_pdus(persister, room_id, pdus) if pdus else {}
    assert set(outcomes(answers).values()) <= {"accepted"}
    latest = pdu(elsewhere.latest, state_before=list(elsewhere.before.values()))
    absent = [e for e in elsewhere.latest.prev_event_ids if e not in known]
    if absent:
        answer = (await deliver(persister, room_id, [elsewhere.latest]))[elsewhere.latest.event_id]
        assert answer["outcome"] == "missing" and set(answer["missing"]) == set(absent)
    results = await deliver_pdus(persister, room_id, [latest])
    return room_id, graph, elsewhere, outcomes(results)


def newest_first(events: Sequence[Event], size: int) -> list[list[Event]]:
    """Return chunks in the order of /backfill."""
    ordered = list(reversed(events))
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


async def compare_history(
    persister: Persister, room_id: RoomId, graph: Graph, missed: Sequence[Event], *, with_states: bool
) -> None:
    rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
    keys = {r["event_nid"]: (r["type"], r["state_key"]) for r in rows.values() if r["state_key"] is not None}
    nids = {event_id: row["event_nid"] for event_id, row in rows.items()}
    places: dict[str, tuple[int, int]] = {}
    for event in missed:
        row = rows[event.event_id]
        rejected = graph.outcome[event.event_id] == "rejected"
        if with_states:
            assert (row["status"] == 2) == rejected, event
            before = {key: nids[event_id] for key, event_id in graph.before[event.event_id].items()}
            assert await state_before(persister, row, keys) == before
        assert row["ordinal"] is None
        assert (row["anchor"] is None) == (row["status"] == 2)
        # prev_nids has the predecessors that were stored before the event.
        assert set(row["prev_nids"]) <= {nids[event_id] for event_id in event.prev_event_ids}
        if row["anchor"] is not None:
            places[event.event_id] = (row["anchor"], -row["back"])
    assert sorted(-back for _, back in places.values()) == list(range(1, len(places) + 1)), "dense"
    for event in missed:
        for previous in event.prev_event_ids:
            if event.event_id in places and previous in places:
                assert places[previous] < places[event.event_id], "topological"
    # In version 1 an extremity that history follows may still change the state. Then the next event removes it.
    await check_stored(persister, room_id, but=["extremities"] if graph.version.name == "1" else [])
    assert graph.extremities <= await extremities_of(persister, room_id)


@pytest.mark.parametrize("version_name", VERSIONS)
@pytest.mark.parametrize("size", [100, 7])
async def test_history_fills_a_gap(postgres_module: TestDatabase, version_name: str, size: int) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        for seed in range(3):
            await fill_gap(persister, version_name, size, seed)


async def fill_gap(persister: Persister, version_name: str, size: int, seed: int) -> None:
    room_id, graph, elsewhere, answer = await missed_history(persister, version_name, seed, 20)
    known = {row["event_id"] for row in await persister.timeline(room_id) if row["status"] != 3}
    assert answer == {elsewhere.latest.event_id: "accepted"}
    row = await row_of(persister, elsewhere.latest.event_id)
    absent = {e for e in elsewhere.latest.prev_event_ids if e not in known}
    assert row["gap"] and await gaps_of(persister, room_id) == {row["ordinal"]: absent}
    assert elsewhere.latest.event_id in await extremities_of(persister, room_id)
    everything = {event.event_id for event in elsewhere.missed}
    for chunk in newest_first(elsewhere.missed, size):
        if seed % 2:
            forget_rooms(persister)
        # The state before an event is given if its predecessors come in a later chunk.
        here = {event.event_id for event in chunk}
        pdus = []
        for event in chunk:
            apart = any(e in everything and e not in here for e in event.prev_event_ids)
            given = list(graph.before[event.event_id].values()) if apart else None
            if given:
                await bring(persister, room_id, graph, graph.before[event.event_id])
            pdus.append(pdu(event, anchor=row["ordinal"], **({"state_before": given} if given else {})))
        expected = {e: "rejected" if graph.outcome[e] == "rejected" else "accepted" for e in here}
        former = {r["event_id"] for r in await persister.timeline(room_id) if r["status"] == 2}
        results = outcomes(await deliver_pdus(persister, room_id, pdus))
        assert {e: o for e, o in results.items() if e not in former} == {
            e: o for e, o in expected.items() if e not in former
        }
    assert await gaps_of(persister, room_id) == {}
    await compare_history(persister, room_id, graph, elsewhere.missed, with_states=True)


async def bring(persister: Persister, room_id: RoomId, graph: Graph, state: State) -> None:
    known = {row["event_id"] for row in await persister.timeline(room_id)}
    events = [event for event in auth_closure(graph, state) if event.event_id not in known]
    if events:
        await deliver_pdus(persister, room_id, [pdu(event, outlier=True) for event in events])


async def test_history_without_known_state_fills_a_gap(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, elsewhere, _ = await missed_history(persister, "10", 5, 12)
        [anchor] = await gaps_of(persister, room_id)
        for event in reversed(elsewhere.missed):
            results = await deliver(persister, room_id, [event], anchor=anchor)
            if outcomes(results)[event.event_id] == "missing":
                await bring(persister, room_id, graph, {("", e): e for e in event.auth_event_ids})
                results = await deliver(persister, room_id, [event], anchor=anchor)
            assert outcomes(results)[event.event_id] in ("accepted", "rejected")
        assert await gaps_of(persister, room_id) == {}
        await compare_history(persister, room_id, graph, elsewhere.missed, with_states=False)
        # A live event may follow such history. The state before it must be given, and there is no gap.
        first = next(e for e in elsewhere.missed if graph.outcome[e.event_id] == "accepted")
        fork = graph.make([first.event_id], BOB, "m.room.message", {"body": "from afar"})
        row = await row_of(persister, first.event_id)
        if row["state_nid"] is None:
            assert outcomes(await deliver(persister, room_id, [fork])) == {fork.event_id: "missing"}
        given = list(graph.after(first.event_id).values())
        results = outcomes(await deliver(persister, room_id, [fork], state_before=given))
        assert results == {fork.event_id: graph.arrive(fork)}
        assert not (await row_of(persister, fork.event_id))["gap"]
        assert await gaps_of(persister, room_id) == {}


async def test_outlier_keeps_its_nid_when_it_enters_the_timeline(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        assert outcomes(await deliver(persister, room_id, [bob], outlier=True)) == {bob.event_id: "accepted"}
        before = await row_of(persister, bob.event_id)
        assert before["status"] == 3 and before["ordinal"] is None
        assert bob.event_id not in await extremities_of(persister, room_id)
        assert outcomes(await deliver(persister, room_id, [bob], outlier=True)) == {bob.event_id: "accepted"}
        assert outcomes(await deliver(persister, room_id, [bob])) == {bob.event_id: graph.arrive(bob)}
        row = await row_of(persister, bob.event_id)
        assert (row["event_nid"], row["status"]) == (before["event_nid"], 0) and row["ordinal"] is not None
        assert await extremities_of(persister, room_id) == {bob.event_id}
        assert await persister.content(room_id, "m.room.member", BOB) == {"membership": "join"}
        await check_stored(persister, room_id)


async def test_outlier_and_events_that_cite_it_in_one_call(postgres_module: TestDatabase) -> None:
    """They come in any order, and one event comes both as an outlier and as a live event."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        graph.arrive(bob)
        message = graph.make([bob.event_id], BOB, "m.room.message", {"body": "hi"})
        graph.arrive(message)
        pdus = [pdu(message), pdu(bob), pdu(bob, outlier=True), pdu(message)]
        results = outcomes(await deliver_pdus(persister, room_id, pdus))
        assert results == {bob.event_id: "accepted", message.event_id: "accepted"}
        assert (await row_of(persister, bob.event_id))["ordinal"] is not None
        await check_stored(persister, room_id)


async def test_rejected_outlier_can_be_a_predecessor(postgres_module: TestDatabase) -> None:
    """Events that follow it are authorized independently. Spec: "Rejection"."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        # It does not cite its sender's membership.
        without_bob = {key: event_id for key, event_id in graph.current.items() if key != ("m.room.member", BOB)}
        bad = graph.make([bob.event_id], BOB, "m.room.topic", {"topic": "t"}, "", auth_in=without_bob)
        assert outcomes(await deliver(persister, room_id, [bad], outlier=True)) == {bad.event_id: "rejected"}
        graph.arrive(bad)
        after = graph.make([bad.event_id], BOB, "m.room.message", {"body": "hi"})
        answer = (await deliver(persister, room_id, [after]))[after.event_id]
        assert answer["outcome"] == "missing" and answer["missing"] == [bad.event_id]
        nid = (await row_of(persister, bad.event_id))["event_nid"]
        results = outcomes(await deliver(persister, room_id, [after, bad]))
        assert results == {bad.event_id: "rejected", after.event_id: "accepted"}
        row = await row_of(persister, bad.event_id)
        assert row["event_nid"] == nid and row["state_nid"] is not None
        assert graph.arrive(after) == "accepted"
        await check_stored(persister, room_id)


async def test_one_missing_event_closes_two_gaps(postgres_module: TestDatabase) -> None:
    """The missing event precedes two events. When it arrives, both gaps close."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        lost = graph.make([bob.event_id], BOB, "m.room.message", {"body": "lost"})
        graph.arrive(lost)
        state = list(graph.current.values())
        for text in ("one", "two"):
            event = graph.make([lost.event_id], BOB, "m.room.message", {"body": text})
            assert outcomes(await deliver(persister, room_id, [event], state_before=state)) == {
                event.event_id: "accepted"
            }
        gaps = await gaps_of(persister, room_id)
        assert len(gaps) == 2 and set(map(frozenset, gaps.values())) == {frozenset([lost.event_id])}
        assert outcomes(await deliver(persister, room_id, [lost])) == {lost.event_id: "accepted"}
        assert (await row_of(persister, lost.event_id))["anchor"] == min(gaps)
        assert await gaps_of(persister, room_id) == {}
        await check_stored(persister, room_id)


async def test_history_can_bring_its_own_members(postgres_module: TestDatabase) -> None:
    """A chunk has a join and that user's message, so no event is missing. Only the id of the message was known."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        carol = join(graph, CAROL)
        graph.arrive(carol)
        said = graph.make([carol.event_id], CAROL, "m.room.message", {"body": "hi"})
        graph.arrive(said)
        latest = graph.make([said.event_id], BOB, "m.room.message", {"body": "latest"})
        graph.arrive(latest)
        state = [event_id for event_id in graph.current.values() if event_id != carol.event_id]
        await deliver(persister, room_id, [latest], state_before=state)
        results = outcomes(await deliver(persister, room_id, [said, carol]))
        assert results == {said.event_id: "accepted", carol.event_id: "accepted"}
        assert (await row_of(persister, said.event_id))["prev_nids"] == [
            (await row_of(persister, carol.event_id))["event_nid"]
        ]
        await compare_history(persister, room_id, graph, [carol, said], with_states=True)


async def test_long_history_takes_little_space(postgres_module: TestDatabase) -> None:
    """150 old state changes in one chunk are stored as steps, not as full differences."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "10")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        missed: list[Event] = []
        for number in range(150):
            content: Mapping[str, Any] = {"n": number}
            event = graph.make(
                sorted(graph.extremities), BOB, "org.example.s", content, str(number), auth_in=graph.current
            )
            graph.arrive(event)
            missed.append(event)
        latest = graph.make(sorted(graph.extremities), BOB, "m.room.message", {"body": "latest"})
        graph.arrive(latest)
        await deliver_pdus(persister, room_id, [pdu(event, outlier=True) for event in missed])
        await deliver(persister, room_id, [latest], state_before=list(graph.current.values()))
        results = outcomes(await deliver(persister, room_id, missed))
        assert set(results.values()) == {"accepted"}
        await compare_history(persister, room_id, graph, missed, with_states=True)
        [size] = await persister.sql(
            "SELECT sum(cardinality(added) + cardinality(removed)) FROM state_snapshots JOIN rooms USING (room_nid)"
            " WHERE room_id = $1",
            room_id,
        )
        assert size[0] < 150 * 8 + 300


async def test_refused_event_does_not_stop_its_chunk_of_history(postgres_module: TestDatabase) -> None:
    """The chunk is stored in one write. Its other events are still stored."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _ = await begin(persister, "1")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        missed: list[Event] = []
        for number in range(6):
            missed.append(graph.make(sorted(graph.extremities), BOB, "m.room.message", {"n": number}))
            graph.arrive(missed[-1])
        refused = await unstorable(persister, graph, missed[2].event_id)
        ends = [missed[-1].event_id]
        latest = graph.make(ends, BOB, "m.room.message", {"body": "latest"})
        graph.arrive(latest)
        await deliver(persister, room_id, [latest], state_before=list(graph.current.values()))
        [anchor] = await gaps_of(persister, room_id)
        results = outcomes(await deliver(persister, room_id, [*missed[:3], refused, *missed[3:]], anchor=anchor))
        assert results == {refused.event_id: "dropped"} | {event.event_id: "accepted" for event in missed}
        assert await gaps_of(persister, room_id) == {}
        assert len(await persister.timeline(room_id)) == len(graph.events)


async def test_purged_event_is_missing_as_predecessor(postgres_module: TestDatabase) -> None:
    """A state event that survives a purge has no position any more, because the state before it is gone."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice = await begin(persister, "11")
        bob = join(graph, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        for number in range(5):
            await alice.put_state(room_id, "m.room.topic", {"topic": str(number)})
        [(room_nid,)] = await persister.sql("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
        write = persister.foundation.writer.write
        assert await start_purge(write, room_nid, 10_000, keep_events=1)
        async for _ in purge_batches(write, room_nid, settle_s=0):
            pass
        assert (await row_of(persister, bob.event_id))["status"] == RETIRED
        forget_rooms(persister)
        late = graph.make([bob.event_id], BOB, "m.room.message", {"body": "late"}, auth_in=graph.current)
        answer = (await deliver(persister, room_id, [late]))[late.event_id]
        assert (answer["outcome"], answer["missing"]) == ("missing", [bob.event_id])
        # It is stored and is not added a second time.
        assert outcomes(await deliver(persister, room_id, [bob])) == {bob.event_id: "accepted"}
        assert (await row_of(persister, bob.event_id))["status"] == RETIRED
        state = [
            row[0]
            for row in await persister.sql(
                "SELECT event_id FROM current_state JOIN events USING (room_nid, event_nid) WHERE room_nid = $1",
                room_nid,
            )
        ]
        given = outcomes(await deliver(persister, room_id, [late], state_before=state))
        assert given == {late.event_id: "accepted"}
