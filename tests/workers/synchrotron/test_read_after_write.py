"""Requests to a synchrotron with lagging replication, for data that was just written.

Architecture page, section 4, "Read after write". The bus holds all frames back.
"""

import asyncio
from typing import Any

import pytest

from replication.streams import EVENTS, TOKEN_LETTERS
from replication.streams.follower import Follower
from shared.core.identifiers import RoomId
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet
from workers.synchrotron.waiting import sync_tokens

_LIMIT_S = 4.0


async def test_first_sync_has_everything_written_just_before(postgres: TestDatabase) -> None:
    """The user and the room are in the lagging process's memory already."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await alice.sync()
        await bob.sync()
        world.bus.holding = True
        await bob.writes.act(room_id, "join")
        sent = await bob.writes.send(room_id, "hello")
        await world.set_account_data(bob.user_id, RoomId(""), "org.example", {"a": 1})
        await world.set_account_data(bob.user_id, room_id, "m.tag", {"tags": {"u.x": {}}})
        await world.set_receipt(room_id, bob.user_id, sent.event_id)
        async with asyncio.timeout(_LIMIT_S):
            answer = await bob.sync()
        joined = answer["rooms"]["join"][room_id]
        assert joined["timeline"]["events"][-1]["event_id"] == sent.event_id
        assert {"type": "org.example", "content": {"a": 1}} in answer["account_data"]["events"]
        assert {"type": "m.tag", "content": {"tags": {"u.x": {}}}} in joined["account_data"]["events"]
        [receipt] = [each for each in joined["ephemeral"]["events"] if each["type"] == "m.receipt"]
        assert bob.user_id in receipt["content"][sent.event_id]["m.read"]
        # Nothing comes twice.
        world.bus.release()
        again = await bob.sync(answer["next_batch"])
        assert again["rooms"]["join"] == {} and again["account_data"]["events"] == []
        await bob.writes.act(room_id, "leave")
        assert room_id not in (await bob.sync())["rooms"]["join"]


async def test_room_reads_need_no_replication(postgres: TestDatabase) -> None:
    """By the sender, and by a user who got the event from another process's /sync (note A6)."""
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        since = (await alice.sync())["next_batch"]
        lagging = world.synchrotrons[1].foundation.follower
        deaf = _deafen(world.bus, lagging)
        await bob.writes.act(room_id, "join")
        sent = await bob.writes.send(room_id, "hello")
        await bob.writes.call("PUT", f"/rooms/{room_id}/state/m.room.topic/", {"topic": "t"})
        told = await alice.sync(since, timeout=5000)
        while sent.event_id not in str(told):
            told = await alice.sync(told["next_batch"], timeout=5000)
        alice.synchrotron = bob.synchrotron = 1
        for reader in (alice, bob):
            messages = (await reader.room(room_id, "messages", dir="b")).json["chunk"]
            assert sent.event_id in [event["event_id"] for event in messages]
            assert (await reader.room(room_id, f"event/{sent.event_id}")).status == 200
            assert (await reader.room(room_id, f"context/{sent.event_id}")).status == 200
            members = (await reader.room(room_id, "members")).json["chunk"]
            assert bob.user_id in [event["state_key"] for event in members]
            assert bob.user_id in (await reader.room(room_id, "joined_members")).json["joined"]
        token = told["next_batch"]
        page = (await alice.room(room_id, "messages", dir="b", **{"from": token})).json["chunk"]
        assert sent.event_id in [event["event_id"] for event in page]
        at_token = (await alice.room(room_id, "members", at=token)).json["chunk"]
        assert bob.user_id in [event["state_key"] for event in at_token]
        assert deaf["lost"] > 0
        # Its own /sync with that token continues from there, since it reads Postgres.
        async with asyncio.timeout(_LIMIT_S):
            assert (await alice.sync(token))["rooms"]["join"] == {}


def _deafen(bus: Any, follower: Follower) -> dict[str, int]:
    """Keep all frames from one follower."""
    count = {"lost": 0}

    def lose(_channel: str, _message: bytes) -> None:
        count["lost"] += 1

    bus._subscribers = [
        (channels, lose if getattr(on_message, "__self__", None) is follower else on_message)
        for channels, on_message in bus._subscribers
    ]
    return count


async def test_unreachable_token_is_answered_in_time(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """One limit for all streams together, then 503. A token from the future is refused at once everywhere."""
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        vectors = parse_token(token, TOKEN_LETTERS).vectors
        far = {name: Vector(v.known, v.base + 10**6, {}) for name, v in vectors.items()}
        strange = {name: Vector(v.known + 1000, v.base, v.above) for name, v in vectors.items()}
        for forged in (far, strange):
            text = format_token(StreamToken(forged), TOKEN_LETTERS)
            async with asyncio.timeout(1.0):
                refused = [
                    await alice.get("/sync", since=text),
                    await alice.room(room_id, "messages", dir="b", **{"from": text}),
                    await alice.room(room_id, "messages", dir="b", to=text),
                    await alice.room(room_id, "members", at=text),
                ]
            assert [(one.status, one.errcode) for one in refused] == [(400, "M_INVALID_PARAM")] * 4
        # Taken positions without rows: each stream alone would use up the limit.
        monkeypatch.setattr(sync_tokens, "_CATCH_UP_LIMIT_S", 1.0)
        taken = dict(vectors)
        for name in ("events", "receipts", "account_data"):
            position = await world.database.fetchval(f"SELECT nextval('stream_{name}')")
            taken[name] = Vector(vectors[name].known, position, {})
        began = asyncio.get_running_loop().time()
        late = await alice.get("/sync", since=format_token(StreamToken(taken), TOKEN_LETTERS))
        assert late.status == 503
        assert asyncio.get_running_loop().time() - began < 2.5, "each stream for itself would take three seconds"
        assert world.synchrotrons[0].foundation.follower.covers(EVENTS, vectors["events"])
