"""Shared by tests of rooms with forks: a room and its model, delivery of events, comparison with the database."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from shared.core.events import Event, build_event, parse_event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.operations.check_rooms import check_room
from tests.rigs.persister import Persister
from tests.rigs.worker import SERVER
from tests.workers.event_persister.graph_model import OTHER_KEY, Graph, Key

BOB, CAROL, DAVE = UserId("@bob:b.example"), UserId("@carol:c.example"), UserId("@dave:b.example")
STATUS = ["accepted", "soft_failed", "rejected", "outlier"]


async def begin(persister: Persister, version_name: str) -> tuple[RoomId, Graph, Any]:
    """Make a public room of Alice's with generous power levels; return its id, its model and Alice."""
    alice = persister.user("alice")
    users = {} if version_name == "12" else {alice.user_id: 100}
    room_id = await alice.create_room(
        preset="public_chat",
        room_version=version_name,
        power_level_content_override={"users": {**users, BOB: 100, CAROL: 50}, "state_default": 0, "invite": 0},
    )
    version = get_room_version(version_name)
    rows = await persister.timeline(room_id)
    graph = Graph(version, parse_event(version, rows[0]["json"]))
    await follow(persister, room_id, graph)
    return room_id, graph, alice


async def follow(persister: Persister, room_id: RoomId, graph: Graph) -> None:
    """Add the persister's own events to the model."""
    for row in await persister.timeline(room_id):
        if row["ordinal"] is not None and row["event_id"] not in graph.events:
            event = parse_event(graph.version, row["json"])
            assert set(event.prev_event_ids) == graph.extremities, "a local event follows all extremities"
            assert graph.arrive(event) == "accepted"


def pdu(event: Event, **options: Any) -> dict[str, Any]:
    """Return an event as `deliver_pdus` takes it. state_before: ids of the whole state before it."""
    return {"event_id": event.event_id, "pdu": orjson.Fragment(event.encoded), **options}


async def deliver(persister: Persister, room_id: str, events: Sequence[Event], **options: Any) -> dict[str, Any]:
    return await deliver_pdus(persister, room_id, [pdu(event, **options) for event in events])


async def deliver_pdus(persister: Persister, room_id: str, pdus: Sequence[Any]) -> dict[str, Any]:
    """Deliver events as a federation reader does: outliers first, then the states before events, then the others."""
    outliers = [one for one in pdus if one.get("outlier")]
    results: dict[str, Any] = {}
    states: dict[tuple[str, ...], int] = {}
    if outliers and any("state_before" in one for one in pdus):
        results |= (await receive(persister, room_id, outliers))["results"]
        pdus = [one for one in pdus if not one.get("outlier")]
    sent = []
    for one in pdus:
        if "state_before" in one:
            ids = tuple(one["state_before"])
            if ids not in states:
                given = await give_state(persister, room_id, ids)
                if given["missing"]:
                    results[one["event_id"]] = {"outcome": "missing", "missing": given["missing"]}
                    continue
                states[ids] = given["state"]
            sent.append({**one, "state_before": states[ids]})
        else:
            sent.append(one)
    results |= (await receive(persister, room_id, sent))["results"]
    return results


async def receive(persister: Persister, room_id: str, pdus: Sequence[Any], **options: Any) -> dict[str, Any]:
    """Make one call and return its answer."""
    path = f"/_skep/rooms/{quote(room_id, safe='')}/receive"
    answer = await persister.internal("POST", path, {"pdus": list(pdus), **options})
    assert answer.status == 200, answer.body
    received: dict[str, Any] = answer.json
    return received


async def give_state(persister: Persister, room_id: str, event_ids: Sequence[str]) -> dict[str, Any]:
    path = f"/_skep/rooms/{quote(room_id, safe='')}/given_state"
    answer = await persister.internal("PUT", path, {"event_ids": list(event_ids)})
    assert answer.status == 200, answer.body
    given: dict[str, Any] = answer.json
    return given


def outcomes(results: Mapping[str, Any]) -> dict[str, str]:
    return {event_id: result["outcome"] for event_id, result in results.items()}


def forget_rooms(persister: Persister) -> None:
    """Make the persister drop its rooms from memory, as when its slots change."""
    for listener in persister.slots.listeners:
        listener("rooms", set())


async def arrive_as_stored(persister: Persister, room_id: str, graph: Graph) -> None:
    """Add all stored events to the model, in the order of their positions."""
    rows = await persister.sql(
        """SELECT e.event_id, e.json FROM events e JOIN rooms r USING (room_nid)
           WHERE r.room_id = $1 ORDER BY e.writer, e.position""",
        room_id,
    )
    for event_id, json in rows:
        if event_id not in graph.events:
            graph.arrive(parse_event(graph.version, json))


async def check_stored(persister: Persister, room_id: RoomId, *, but: Sequence[str] = ()) -> None:
    """Check that `skep check rooms` finds no fault, except of the kinds in `but`."""
    findings = await check_room(persister.foundation.database, room_id, server_name=SERVER)
    found = [
        (finding.kind, finding.event_id, finding.detail)
        for finding in findings
        if not finding.is_note and finding.kind not in but
    ]
    assert not found, found


async def line_before(persister: Persister, room_nid: int, ordinal: int) -> dict[Key, int]:
    rows = await persister.sql(
        """SELECT DISTINCT ON (type, state_key) type, state_key, event_nid FROM state_changes
           WHERE room_nid = $1 AND ordinal < $2 ORDER BY type, state_key, ordinal DESC""",
        room_nid,
        ordinal,
    )
    return {(t, k): nid for t, k, nid in rows if nid is not None}


async def state_before(persister: Persister, row: Any, keys: dict[int, Key]) -> dict[Key, int]:
    """Return the state before a stored event, from the tables."""
    room_nid = row["room_nid"]
    if row["state_nid"] is None:
        return await line_before(persister, room_nid, row["ordinal"])
    walk, nid = [], row["state_nid"]
    while nid is not None:
        [snapshot] = await persister.sql(
            "SELECT * FROM state_snapshots WHERE room_nid = $1 AND nid = $2", room_nid, nid
        )
        walk.append(snapshot)
        nid = snapshot["parent"]
    assert len(walk) <= 1 + walk[0]["steps"].bit_length()
    state = await line_before(persister, room_nid, walk[-1]["base"])
    for snapshot in reversed(walk):
        for removed in snapshot["removed"]:
            assert state.pop(keys[removed]) == removed
        for added in snapshot["added"]:
            state[keys[added]] = added
    return state


async def compare(persister: Persister, room_id: RoomId, graph: Graph) -> None:
    """Check that the stored room equals the model."""
    rows = await persister.timeline(room_id)
    nids = {row["event_id"]: row["event_nid"] for row in rows}
    keys = {row["event_nid"]: (row["type"], row["state_key"]) for row in rows if row["state_key"] is not None}
    assert {row["event_id"]: STATUS[row["status"]] for row in rows} == graph.outcome
    for row in rows:
        expected = {key: nids[event_id] for key, event_id in graph.before[row["event_id"]].items()}
        assert await state_before(persister, row, keys) == expected, row["event_id"]
    room_nid = rows[0]["room_nid"]
    stored = await persister.sql("SELECT type, state_key, event_nid FROM current_state WHERE room_nid = $1", room_nid)
    current = {key: nids[event_id] for key, event_id in graph.current.items()}
    assert {(t, k): nid for t, k, nid in stored} == current
    assert await line_before(persister, room_nid, 1 << 40) == current
    [heads] = await persister.sql("SELECT event_nids FROM forward_extremities WHERE room_nid = $1", room_nid)
    assert set(heads[0]) == {nids[event_id] for event_id in graph.extremities}
    members = await persister.sql("SELECT user_id, membership FROM memberships WHERE room_nid = $1", room_nid)
    for user_id, membership in members:
        event_id = graph.current.get(("m.room.member", user_id))
        assert membership == (graph.events[event_id].content["membership"] if event_id else "leave")
    assert {user_id for user_id, _ in members} >= {k for t, k in graph.current if t == "m.room.member"}
    ordinals = [row["ordinal"] for row in rows if row["ordinal"] is not None]
    assert ordinals == list(range(1, len(ordinals) + 1))
    await check_stored(persister, room_id)


async def extremities(persister: Persister, room_id: str) -> int:
    [row] = await persister.sql(
        "SELECT cardinality(event_nids) FROM forward_extremities JOIN rooms USING (room_nid) WHERE room_id = $1",
        room_id,
    )
    count: int = row[0]
    return count


async def tied_together(persister: Persister, room_id: str) -> None:
    """Wait until dummy events have merged the extremities into one."""
    async with asyncio.timeout(20):
        while await extremities(persister, room_id) > 1:  # noqa: ASYNC110 - nothing tells of it but the table
            await asyncio.sleep(0.02)


async def unstorable(persister: Persister, graph: Graph, *previous: EventId) -> Event:
    """Return an event with the id of an event in another room. In versions 1 and 2 the server chooses event ids."""
    other_room = await persister.user("alice").create_room(room_version="1")
    stolen = (await persister.timeline(other_room))[-1]["event_id"]
    create = graph.create.event_id
    return build_event(
        graph.version,
        room_id=graph.create.room_id,
        sender=BOB,
        type="m.room.message",
        state_key=None,
        content={"body": "mine"},
        prev_event_ids=list(previous) or [create],
        auth_event_ids=[create],
        depth=5,
        origin_server_ts=1,
        signing_key=OTHER_KEY,
        server_name=SERVER,
        event_id_localpart=stolen[1:].partition(":")[0],
        reference_hashes=dict.fromkeys([create, *previous], b"h" * 32),
    )
