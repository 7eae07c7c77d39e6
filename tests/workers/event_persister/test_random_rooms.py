"""Random rooms: concurrent users, poisoned events, rooms dropped from memory, slots that move.

A plain replay checks the stored room: the rules allow each event, in the order of ordinals, in the state before it. The
tables of current state and memberships equal the end of the replay.
"""

import asyncio
import itertools
import random
from typing import Any

import pytest

from shared.config.sections import Caches
from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events import Event, parse_event
from shared.core.identifiers import RoomId
from shared.core.room_versions import get_room_version
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.rigs.worker import make_config
from tests.workers.event_persister.test_commits import POISON

_NAMES = ("alice", "bob", "carol", "dan")


async def replay(persister: Persister, room_id: RoomId, version_name: str) -> int:
    """Check the stored room; return the number of its events."""
    version = get_room_version(version_name)
    rows = await persister.timeline(room_id)
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    state: dict[tuple[str, str], tuple[int, Event]] = {}
    before: Event | None = None
    for row in rows:
        event = parse_event(version, row["json"])
        assert event.event_id == row["event_id"]
        assert event.prev_event_ids == ((before.event_id,) if before else ())
        named = auth_types_for(
            version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
        )
        auth = [state[key] for key in named if key in state]
        assert event.auth_event_ids == tuple(found.event_id for _, found in auth)
        assert list(row["auth_nids"]) == [nid for nid, _ in auth]
        create = state["m.room.create", ""][1] if state else event
        check_auth(version, event, {key: found for key, (_, found) in state.items()}, create)
        if event.state_key is not None:
            replaced = state.get((event.type, event.state_key))
            assert row["replaces_nid"] == (replaced[0] if replaced else None)
            state[event.type, event.state_key] = (row["event_nid"], event)
        before = event
    room_nid = rows[0]["room_nid"]
    stored = await persister.sql("SELECT type, state_key, event_nid FROM current_state WHERE room_nid = $1", room_nid)
    assert {(t, k): nid for t, k, nid in stored} == {key: nid for key, (nid, _) in state.items()}
    members = await persister.sql("SELECT user_id, membership FROM memberships WHERE room_nid = $1", room_nid)
    assert dict(map(tuple, members)) == {
        key: event.content["membership"] for (kind, key), (_, event) in state.items() if kind == "m.room.member"
    }
    [heads] = await persister.sql("SELECT event_nids FROM forward_extremities WHERE room_nid = $1", room_nid)
    assert heads[0] == [rows[-1]["event_nid"]]
    return len(rows)


async def _act(chance: random.Random, persisters: list[Persister], room_id: RoomId) -> int:
    """Do one random thing; return the answer's status."""
    user = chance.choice(persisters).user(chance.choice(_NAMES))
    target = f"@{chance.choice(_NAMES)}:example.org"
    poison = "poison" if chance.random() < 0.05 else "clean"
    action = chance.choice(("send", "send", "send", "topic", "levels", "join", "join", "leave", "target", "target"))
    if action == "send":
        return (await user.send(room_id, poison)).status
    if action == "topic":
        return (await user.put_state(room_id, "m.room.topic", {"topic": f"{poison} {chance.random()}"})).status
    if action == "levels":
        users = {target: chance.choice((0, 50, 60))}
        if chance.random() < 0.5:
            users["@alice:example.org"] = 100
        levels = {"users": users, "note": poison, "events": {"m.room.topic": 40}}
        return (await user.put_state(room_id, "m.room.power_levels", levels)).status
    if action in ("join", "leave"):
        return (await user.act(room_id, action, {"reason": poison})).status
    body = {"user_id": target, "reason": poison}
    return (await user.act(room_id, chance.choice(("invite", "kick", "ban", "unban")), body)).status


@pytest.mark.parametrize(("version", "seed"), [("1", 1), ("6", 2), ("11", 3), ("12", 4)])
async def test_random_rooms_match_a_replay(postgres: TestDatabase, version: str, seed: int) -> None:
    chance = random.Random(seed)
    # With memory for hardly one room, rooms are dropped and read again all the time.
    config = make_config(caches=Caches(rooms_bytes=20_000))
    owner_of_odd = [0]
    async with (
        event_persister(postgres.dsn, takes=lambda slot: owner_of_odd[0] == 0, config=config) as one,
        event_persister(postgres.dsn, takes=lambda slot: owner_of_odd[0] == 1, config=config) as two,
    ):
        one.router.other, two.router.other = two, one
        alice = one.user("alice")
        rooms = [await alice.create_room(preset="public_chat", room_version=version) for _ in range(3)]
        await one.foundation.database.execute(POISON)
        statuses: list[int] = []

        async def user() -> None:
            for _ in range(40):
                statuses.append(await _act(chance, [one, two], chance.choice(rooms)))

        async def move() -> None:
            """Move the slots. No request is parked, so requests may reach the wrong owner."""
            for _ in range(10):
                await asyncio.sleep(0.04)
                owner_of_odd[0] = 1 - owner_of_odd[0]
                for persister in (one, two):
                    for listener in persister.slots.listeners:
                        listener("rooms", persister.slots.owned("rooms"))

        await asyncio.gather(*(user() for _ in range(10)), move())
        assert set(statuses) <= {200, 400, 403, 503}, "no request causes an internal error"
        total = 0
        for room_id in rooms:
            total += await replay(one, room_id, version)
        announced: list[Any] = sorted(one.bus.rows() + two.bus.rows(), key=lambda row: row.position)
        assert len(announced) == total
        for room_id in rooms:
            mine = [row for row in announced if row.room_id == room_id]
            for earlier, row in itertools.pairwise(mine):
                other = earlier.writer != row.writer
                prior = (earlier.writer, earlier.position) if other else (None, None)
                assert (row.prior_writer, row.prior_position) == prior
