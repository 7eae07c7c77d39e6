"""Redactions out of order, events that break the protocol's rules, and overload."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.errors import EventFormatError
from shared.core.events import Event, build_event, parse_event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.workers.event_persister.graph_model import OTHER_KEY, Graph
from tests.workers.event_persister.graph_rig import (
    BOB,
    CAROL,
    arrive_as_stored,
    begin,
    check_stored,
    compare,
    deliver,
    deliver_pdus,
    follow,
    give_state,
    outcomes,
    pdu,
    receive,
    tied_together,
)
from workers.event_persister.graph.resolver import Resolver


async def with_bob(persister: Persister, version_name: str = "10") -> tuple[RoomId, Graph, User, Event]:
    room_id, graph, alice = await begin(persister, version_name)
    bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
    graph.arrive(bob)
    await deliver(persister, room_id, [bob])
    return room_id, graph, alice, bob


async def row_of(persister: Persister, event_id: str) -> Any:
    [row] = await persister.sql("SELECT * FROM events WHERE event_id = $1", event_id)
    return row


def redaction(graph: Graph, target: EventId, *previous: EventId, sender: UserId = BOB, auth_in: Any = None) -> Event:
    content = {"redacts": target} if graph.version.redacts_in_content else {}
    redacts = None if graph.version.redacts_in_content else target
    return graph.make(
        previous or sorted(graph.extremities), sender, "m.room.redaction", content, redacts=redacts, auth_in=auth_in
    )


async def redacted_by(persister: Persister, target: str) -> str | None:
    nid = (await row_of(persister, target))["redacted_by"]
    if nid is None:
        return None
    rows = await persister.sql("SELECT event_id FROM events WHERE event_nid = $1", nid)
    event_id: str = rows[0][0]
    return event_id


@pytest.mark.parametrize("version_name", ["1", "10", "11"])
@pytest.mark.parametrize("together", [False, True])
async def test_redaction_before_its_target_takes_effect(
    postgres_module: TestDatabase, version_name: str, together: bool
) -> None:
    """The target is a state event. The auth rules read only its redacted form."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister, version_name)
        rules = graph.make([bob.event_id], BOB, "m.room.join_rules", {"join_rule": "invite", "x": "private"}, "")
        graph.arrive(rules)
        redacts = redaction(graph, rules.event_id, bob.event_id, auth_in=graph.after(bob.event_id))
        batches = [[redacts, rules]] if together else [[redacts], [rules]]
        for batch in batches:
            assert set(outcomes(await deliver(persister, room_id, batch)).values()) == {"accepted"}
        assert await redacted_by(persister, rules.event_id) == redacts.event_id
        assert (await persister.user("dora").act(room_id, "join")).status == 403
        assert (await alice.send(room_id, "hi")).status == 200
        await check_stored(persister, room_id)


async def test_unauthorized_early_redaction_is_skipped(postgres_module: TestDatabase) -> None:
    """A redaction without the right to redact arrives first. A later valid one takes effect."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        carol = graph.make([bob.event_id], CAROL, "m.room.member", {"membership": "join"}, CAROL)
        graph.arrive(carol)
        mallory = UserId("@mallory:m.example")
        joined = graph.make([carol.event_id], mallory, "m.room.member", {"membership": "join"}, mallory)
        graph.arrive(joined)
        said = graph.make([joined.event_id], CAROL, "m.room.message", {"body": "hi"})
        state = graph.current
        bad = redaction(graph, said.event_id, joined.event_id, sender=mallory, auth_in=state)
        good = redaction(graph, said.event_id, joined.event_id, sender=BOB, auth_in=state)
        for events in ([carol, joined], [bad], [good], [said]):
            assert set(outcomes(await deliver(persister, room_id, events)).values()) == {"accepted"}
        assert await redacted_by(persister, said.event_id) == good.event_id
        await check_stored(persister, room_id)


async def test_redaction_of_an_outlier_is_kept_when_it_enters_the_timeline(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        for order in ("outlier, redaction", "redaction, outlier", "outlier, both"):
            room_id, graph, _, bob = await with_bob(persister)
            topic = graph.make([bob.event_id], BOB, "m.room.topic", {"topic": "private"}, "")
            graph.arrive(topic)
            redacts = redaction(graph, topic.event_id, bob.event_id, auth_in=graph.after(bob.event_id))
            if order == "redaction, outlier":
                await deliver(persister, room_id, [redacts])
            await deliver(persister, room_id, [topic], outlier=True)
            if order == "outlier, redaction":
                await deliver(persister, room_id, [redacts])
            if order != "outlier, both":
                assert await redacted_by(persister, topic.event_id) == redacts.event_id
            results = outcomes(await deliver(persister, room_id, [topic, redacts]))
            assert set(results.values()) == {"accepted"}, order
            assert await redacted_by(persister, topic.event_id) == redacts.event_id, order
            await check_stored(persister, room_id)


async def test_redactions_in_history_take_effect(postgres_module: TestDatabase) -> None:
    """They redact an event of the same chunk and an event stored before."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, _ = await with_bob(persister)
        here = (await alice.send(room_id, "here")).event_id
        await follow(persister, room_id, graph)
        lost = graph.make([here], BOB, "m.room.message", {"body": "lost"})
        graph.arrive(lost)
        missed = [lost]
        for target in (lost.event_id, here):
            missed.append(redaction(graph, target))
            graph.arrive(missed[-1])
        latest = graph.make(sorted(graph.extremities), BOB, "m.room.message", {"body": "latest"})
        await deliver(persister, room_id, [latest], state_before=list(graph.current.values()))
        assert set(outcomes(await deliver(persister, room_id, missed)).values()) == {"accepted"}
        assert await redacted_by(persister, lost.event_id) == missed[1].event_id
        assert await redacted_by(persister, here) == missed[2].event_id
        await check_stored(persister, room_id)


async def test_soft_failed_redaction_has_no_effect(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        sent = (await alice.send(room_id, "hi")).event_id
        await follow(persister, room_id, graph)
        leave = graph.make([sent], BOB, "m.room.member", {"membership": "leave"}, BOB)
        graph.arrive(leave)
        late = redaction(graph, sent, bob.event_id, auth_in=graph.after(bob.event_id))
        soon = graph.make([bob.event_id], BOB, "m.room.message", {"body": "x"}, auth_in=graph.after(bob.event_id))
        early = redaction(graph, soon.event_id, bob.event_id, auth_in=graph.after(bob.event_id))
        results = outcomes(await deliver(persister, room_id, [leave, late, early, soon]))
        assert [results[e.event_id] for e in (late, early, soon)] == ["soft_failed"] * 3
        assert await redacted_by(persister, sent) is None and await redacted_by(persister, soon.event_id) is None
        await check_stored(persister, room_id)


async def test_resolver_forgets_redacted_events(postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    forget = Resolver.forget

    def noted(self: Resolver, event_ids: Any) -> None:
        forgotten.extend(event_ids)
        forget(self, event_ids)

    monkeypatch.setattr(Resolver, "forget", noted)
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        topic = (await alice.put_state(room_id, "m.room.topic", {"topic": "x"})).event_id
        assert (await alice.redact(room_id, topic)).status == 200
        said = graph.make([bob.event_id], BOB, "m.room.message", {"body": "x"}, auth_in=graph.after(bob.event_id))
        graph.arrive(said)
        redacts = redaction(graph, said.event_id, said.event_id, auth_in=graph.after(bob.event_id))
        await deliver(persister, room_id, [said, redacts])
        assert forgotten == [topic, said.event_id]


# -- violations of the protocol


async def test_events_that_form_a_cycle_are_dropped(postgres_module: TestDatabase) -> None:
    """In version 1 servers choose event ids, so events can name each other. Events that name these are dropped too."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister, "1")

        def odd(name: str, previous: list[EventId], auth: list[EventId]) -> Event:
            hashes = dict.fromkeys([*previous, *auth], b"h" * 32)
            return build_event(
                graph.version,
                room_id=room_id,
                sender=BOB,
                type="m.room.message",
                state_key=None,
                content={},
                prev_event_ids=previous,
                auth_event_ids=auth,
                depth=9,
                origin_server_ts=1,
                signing_key=OTHER_KEY,
                server_name="b.example",
                event_id_localpart=name,
                reference_hashes=hashes,
            )

        create, at = graph.create.event_id, bob.event_id
        events = [
            odd("a", [EventId("$b:b.example")], [create]),
            odd("b", [EventId("$a:b.example")], [create]),
            odd("c", [at], [create, EventId("$d:b.example")]),
            odd("d", [at], [create, EventId("$c:b.example")]),
            odd("e", [EventId("$e:b.example")], [create]),
            odd("f", [EventId("$a:b.example")], [create]),
        ]
        assert set(outcomes(await deliver(persister, room_id, events)).values()) == {"dropped"}
        fine = graph.make([at], BOB, "m.room.message", {"body": "fine"})
        results = outcomes(await deliver(persister, room_id, [*events, fine]))
        assert results[fine.event_id] == graph.arrive(fine) == "accepted"
        await compare(persister, room_id, graph)


async def test_event_without_predecessors_is_rejected(postgres_module: TestDatabase) -> None:
    """Before it no user was in the room. It is stored as one row, without state and outside of any gap."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        auth = [graph.current[key] for key in (("m.room.create", ""), ("m.room.power_levels", ""))]
        first = build_event(
            graph.version,
            room_id=room_id,
            sender=BOB,
            type="m.room.topic",
            state_key="",
            content={"topic": "x"},
            prev_event_ids=[],
            auth_event_ids=[*auth, bob.event_id],
            depth=2**53 - 1,
            origin_server_ts=1,
            signing_key=OTHER_KEY,
            server_name="b.example",
        )
        for _ in range(2):
            assert outcomes(await deliver(persister, room_id, [first])) == {first.event_id: "rejected"}
        row = await row_of(persister, first.event_id)
        assert row["state_nid"] is None and row["ordinal"] is None
        assert not await persister.sql("SELECT * FROM state_snapshots WHERE room_nid = $1", row["room_nid"])


async def test_depth_stays_at_its_maximum(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        for version_name in ("1", "10"):
            room_id, graph, alice, bob = await with_bob(persister, version_name)
            deep = graph.make([bob.event_id], BOB, "m.room.message", {})
            highest = build_event(
                graph.version,
                room_id=room_id,
                sender=BOB,
                type="m.room.message",
                state_key=None,
                content={},
                prev_event_ids=[bob.event_id],
                auth_event_ids=list(deep.auth_event_ids),
                depth=2**63,
                origin_server_ts=-5,
                signing_key=OTHER_KEY,
                server_name="b.example",
                event_id_localpart="deep",
                reference_hashes=dict.fromkeys([bob.event_id, *deep.auth_event_ids], b"h" * 32),
            )
            assert highest.depth == graph.version.max_depth
            assert outcomes(await deliver(persister, room_id, [highest])) == {highest.event_id: "accepted"}
            sent = (await alice.send(room_id, "hi")).event_id
            assert (await row_of(persister, sent))["depth"] == graph.version.max_depth


async def test_events_of_another_room_count_as_missing(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        other_id, other, _, _ = await with_bob(persister)
        assert await deliver(persister, other_id, [bob]) == {}
        foreign = other.current["m.room.member", BOB]
        auth = [graph.create.event_id, graph.current["m.room.power_levels", ""], foreign]
        for previous, missing in ((bob.event_id, foreign), (foreign, foreign)):
            odd = build_event(
                graph.version,
                room_id=room_id,
                sender=BOB,
                type="m.room.message",
                state_key=None,
                content={},
                prev_event_ids=[previous],
                auth_event_ids=auth,
                depth=9,
                origin_server_ts=1,
                signing_key=OTHER_KEY,
                server_name="b.example",
            )
            answer = (await deliver(persister, room_id, [odd]))[odd.event_id]
            assert answer["outcome"] == "missing" and answer["missing"] == [missing]


async def test_large_unknown_state_is_reported_missing(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, _ = await with_bob(persister)
        lost = graph.make(sorted(graph.extremities), BOB, "m.room.message", {})
        graph.arrive(lost)
        event = graph.make([lost.event_id], BOB, "m.room.message", {})
        ids = [f"${n:043d}" for n in range(50_000)] + ["$\x00", "", "x" * 300]
        answer = (await deliver(persister, room_id, [event], state_before=ids))[event.event_id]
        assert answer["outcome"] == "missing" and answer["missing"] == ids[:100], "not all of them"


async def test_excess_concurrent_deliveries_get_503(postgres_module: TestDatabase) -> None:
    """Beyond a limit the caller keeps its events. Events with status 200 are stored, and none is stored twice."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        events = [graph.make([bob.event_id], BOB, "m.room.message", {"n": n}) for n in range(60)]
        path = f"/_skep/rooms/{quote(room_id, safe='')}/receive"
        calls = [persister.internal("POST", path, {"pdus": [pdu(event)] * 3}) for event in events]
        answers = await asyncio.gather(*calls)
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 20
        stored = {row["event_id"] for row in await persister.timeline(room_id)}
        assert {e.event_id for e, status in zip(events, statuses, strict=True) if status == 200} <= stored
        await deliver(persister, room_id, events)
        await tied_together(persister, room_id)
        await arrive_as_stored(persister, room_id, graph)
        await compare(persister, room_id, graph)


async def test_malformed_delivery_is_refused(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, _, _, bob = await with_bob(persister)
        path = f"/_skep/rooms/{quote(room_id, safe='')}/receive"
        bodies: tuple[Any, ...] = ([], {}, {"pdus": 1}, {"pdus": [1]}, {"pdus": [{"pdu": {}, "anchor": "x"}]})
        for body in bodies:
            assert (await persister.internal("POST", path, body)).status == 400
        assert (await persister.internal("POST", path, {"pdus": [pdu(bob)] * 201})).status == 413
        pdus: tuple[Any, ...] = (1, None, [], "x", {}, {"type": "m.room.message"})
        for odd in pdus:
            malformed = {"pdus": [{"event_id": "$x", "pdu": odd}]}
            assert (await persister.internal("POST", path, malformed)).status == 400
        states = [pdu(bob, state_before=number) for number in range(11)]
        assert (await persister.internal("POST", path, {"pdus": states})).status == 413


async def test_absent_room_is_an_answer_and_no_error(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        answer = await receive(persister, "!x:example.org", [])
        assert answer == {"results": {}, "has_room": False, "is_finished": True}
        assert (await give_state(persister, "!x:example.org", ["$x"]))["has_room"] is False


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**63)
    | st.text(max_size=5)
    | st.sampled_from(["$\x00", "@a:b", "$x:y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "auth_events",
    "content",
    "depth",
    "event_id",
    "prev_events",
    "redacts",
    "room_id",
    "sender",
    "state_key",
    "type",
]
mutations = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(FIELDS), json_values | st.just("remove")), min_size=1, max_size=5
)


@pytest.mark.parametrize("version_name", ["1", "10", "12"])
def test_mutated_events_never_cause_an_internal_error(postgres_module: TestDatabase, version_name: str) -> None:
    """Every event is stored or refused."""
    with asyncio.Runner() as runner:
        running = event_persister(postgres_module.dsn)
        persister = runner.run(running.__aenter__())

        @settings(max_examples=25, deadline=None)
        @given(mutations=mutations, seed=st.integers(0, 1000), options=st.sampled_from(OPTIONS))
        def look(mutations: list[tuple[int, str, Any]], seed: int, options: dict[str, Any]) -> None:
            runner.run(mutated_batch(persister, version_name, mutations, seed, options))

        try:
            look()
        finally:
            runner.run(running.__aexit__(None, None, None))


OPTIONS: list[dict[str, Any]] = [{}, {"outlier": True}, {"anchor": 1}, {"state_before": ["$x"]}, {"state_before": []}]


def _parsed(version: RoomVersion, pdus: Sequence[dict[str, Any]], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events that pass check 1, as a federation reader gives them to the room's owner."""
    parsed: list[dict[str, Any]] = []
    for body in pdus:
        with suppress(EventFormatError):
            parsed.append(pdu(parse_event(version, body), **options))
    return parsed


async def mutated_batch(
    persister: Persister, version_name: str, mutations: list[tuple[int, str, Any]], seed: int, options: dict[str, Any]
) -> None:
    room_id, graph, alice, bob = await with_bob(persister, version_name)
    rng, at = random.Random(seed), bob.event_id
    made: list[dict[str, Any]] = []
    for number in range(10):
        kind, key = rng.choice(["m.room.topic", "m.room.redaction"]), rng.choice([None, "", BOB])
        event = graph.make([at], BOB, kind, {"n": number}, key)
        graph.arrive(event)
        at = event.event_id
        made.append(orjson.loads(event.encoded))
    for index, field, value in mutations:
        if value == "remove":
            made[index].pop(field, None)
        else:
            made[index][field] = value
    results = await deliver_pdus(persister, room_id, _parsed(graph.version, made, options))
    assert len(results) <= 10
    assert (await alice.send(room_id, "still here")).status == 200
    await check_stored(persister, room_id, but=["content_hash"])  # the caller checks hashes and signatures
