"""State changed by resolution, soft-failed events that returned to the state, and gaps, in /sync."""

import asyncio
import random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from replication.bus import wire
from replication.streams import EVENTS
from shared.core.identifiers import UserId
from shared.core.rows import EventRow
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.state_history import history
from shared.rooms.timeline_event import event_from_row
from shared.rooms.viewpoint import value_before
from shared.storage.rooms.state import get_key_history, get_state_before
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, World, fleet, soon
from tests.workers.synchrotron.forked_rooms import MEMBER, ForkedRoom
from workers.synchrotron.rooms import cached_room, room_cache, room_loader
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.room_lookups import RoomLookups

TOPIC = ("m.room.topic", "")
ALICE, BOB, CAROL = (UserId(f"@{name}:example.org") for name in ("alice", "bob", "carol"))
AFTER: dict[str, Any] = {"use_state_after": True}


def told(section: Any, part: str = "state") -> dict[tuple[str, str], str]:
    return {(event["type"], event["state_key"]): event["event_id"] for event in section[part]["events"]}


def shown(section: Any) -> list[str]:
    return [event["event_id"] for event in section["timeline"]["events"]]


async def make_room(world: World, *others: Client) -> ForkedRoom:
    """Return a room of alice's with a topic and other members."""
    alice = world.user("alice").writes
    room_id = await alice.create_room(preset="public_chat")
    await alice.put_state(room_id, "m.room.topic", {"topic": "first"})
    for other in others:
        assert (await other.writes.act(room_id, "join")).status == 200
    return ForkedRoom(world, room_id)


async def test_resolved_changes_wake_members_and_are_read_once(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room = await make_room(world, bob)
        (first,) = await room.events_of(TOPIC)
        await alice.writes.put_state(room.room_id, "m.room.topic", {"topic": "second"})
        hidden = await room.soft_fail(BOB, "m.room.name", "", {"name": "hidden"})
        token = (await alice.sync())["next_batch"]
        queries: list[dict[str, Any]] = [{}] * 5 + [AFTER] * 5
        waiting = [asyncio.create_task(alice.sync(token, timeout=10_000, **query)) for query in queries]
        await asyncio.gather(*map(soon, waiting))
        process = world.synchrotrons[0]
        before = process.metric("skep_sync_queries_total")
        sent = await room.write(BOB, to={TOPIC: first, ("m.room.name", ""): hidden})
        for query, task in zip(queries, waiting, strict=True):
            section = (await task)["rooms"]["join"][room.room_id]
            assert shown(section) == [sent]
            assert told(section, "state_after" if query else "state") == {TOPIC: first, ("m.room.name", ""): hidden}
        # The changes and their events, then the summary's counts for each client: the room is loaded once.
        assert process.metric("skep_sync_queries_total") - before <= 3
        # Nothing is sent twice, and memory continues with usual rows.
        token = (await waiting[0])["next_batch"]
        third = await alice.writes.put_state(room.room_id, "m.room.topic", {"topic": "third"})
        section = (await alice.sync(token))["rooms"]["join"][room.room_id]
        assert shown(section) == [third.event_id]
        assert section["timeline"]["events"][0]["unsigned"]["prev_content"] == {"topic": "first"}
        assert told(section) == {}
        assert process.metric("skep_room_cache_misses_total") == 2  # loaded, updated


async def test_timeline_begins_after_a_state_event_that_lost(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = await make_room(world)
        (topic,) = await room.events_of(TOPIC)
        token = (await alice.sync())["next_batch"]
        lost = await room.write(ALICE, "m.room.topic", {"topic": "lost"}, state_key="", wins=False)
        last = (await alice.writes.send(room.room_id, "after it")).event_id
        section = (await alice.sync(token))["rooms"]["join"][room.room_id]
        # The timeline would set the topic, so it begins after the event. Paging back shows it.
        assert (shown(section), section["timeline"]["limited"], told(section)) == ([last], True, {})
        place = section["timeline"]["prev_batch"]
        page = (await alice.room(room.room_id, "messages", dir="b", limit=1, **{"from": place})).json
        assert [event["event_id"] for event in page["chunk"]] == [lost]
        section = (await alice.sync(token, **AFTER))["rooms"]["join"][room.room_id]
        assert (shown(section), section["timeline"]["limited"]) == ([lost, last], False)
        assert told(section, "state_after") == {}
        for query, part in (({}, "state"), (AFTER, "state_after")):
            section = (await alice.sync(**query))["rooms"]["join"][room.room_id]
            assert told(section, part).get(TOPIC, topic) == topic
            assert (lost in shown(section)) == bool(query)


async def test_key_that_left_the_state_is_absent(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = await make_room(world)
        (topic,) = await room.events_of(TOPIC)
        token = (await alice.sync())["next_batch"]
        sent = await room.write(ALICE, to={TOPIC: None})
        for query, part in (({}, "state"), (AFTER, "state_after")):
            section = (await alice.sync(token, **query))["rooms"]["join"][room.room_id]
            assert (shown(section), told(section, part)) == ([sent], {})  # its removal cannot be expressed
            section = (await alice.sync(**query))["rooms"]["join"][room.room_id]
            assert TOPIC not in told(section, part)
            assert query or topic not in shown(section)
        assert (await alice.room(room.room_id, "state/m.room.topic")).status == 404
        await room.write(ALICE, to={TOPIC: topic})
        section = (await alice.sync(token))["rooms"]["join"][room.room_id]
        assert told(section) == {TOPIC: topic}


async def test_memberships_change_by_resolution(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room = await make_room(world, bob)
        now_ms = world.synchrotrons[0].foundation.clock.now_ms()
        world.set_typing(room.room_id, BOB, now_ms + 60_000)
        ban = await room.soft_fail(ALICE, MEMBER, BOB, {"membership": "ban"})
        join = await room.soft_fail(CAROL, MEMBER, CAROL, {"membership": "join"})
        tokens = {client.user_id: (await client.sync())["next_batch"] for client in (alice, bob, carol)}
        lazy = {"room": {"state": {"lazy_load_members": True}}}
        waiting = {
            client.user_id: asyncio.create_task(client.sync(tokens[client.user_id], timeout=10_000, filter=lazy))
            for client in (alice, bob, carol)
        }
        await asyncio.gather(*map(soon, waiting.values()))
        sent = await room.write(ALICE, to={(MEMBER, BOB): ban, (MEMBER, CAROL): join})
        answers = {user_id: await task for user_id, task in waiting.items()}
        # Bob was joined when the event came, so bob sees it, with the event of the removal.
        left = answers[BOB]["rooms"]["leave"][room.room_id]
        assert shown(left) == [sent]
        assert told(left)[MEMBER, BOB] == ban
        mine = answers[CAROL]["rooms"]["join"][room.room_id]
        assert told(mine)[MEMBER, CAROL] == join
        assert ("m.room.create", "") in told(mine)
        section = answers[ALICE]["rooms"]["join"][room.room_id]
        assert told(section) == {(MEMBER, ALICE): (await room.state())[MEMBER, ALICE], (MEMBER, BOB): ban} | {
            (MEMBER, CAROL): join
        }
        assert section["summary"] == {
            "m.heroes": [CAROL],
            "m.joined_member_count": 2,
            "m.invited_member_count": 0,
        }
        assert section["ephemeral"]["events"] == [{"type": "m.typing", "content": {"user_ids": []}}]
        # Later events reach new members and not removed ones.
        tokens = {user_id: answer["next_batch"] for user_id, answer in answers.items()}
        await alice.writes.send(room.room_id, "news")
        assert (await carol.sync(tokens[CAROL]))["rooms"]["join"]
        assert not any((await bob.sync(tokens[BOB]))["rooms"].values())


@pytest.mark.parametrize("query", [{}, AFTER])
async def test_invitations_change_by_resolution(postgres: TestDatabase, query: dict[str, Any]) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room = await make_room(world)
        token = (await bob.sync())["next_batch"]
        invite = await room.soft_fail(ALICE, MEMBER, BOB, {"membership": "invite"})
        await room.write(ALICE, to={(MEMBER, BOB): invite})
        answer = await bob.sync(token, **query)
        stripped = answer["rooms"]["invite"][room.room_id]["invite_state"]["events"]
        assert {"topic": "first"} in [event["content"] for event in stripped]
        assert stripped[-1]["content"] == {"membership": "invite"}
        # Withdrawn by an event that had lost, then removed from the state.
        kick = await room.soft_fail(ALICE, MEMBER, BOB, {"membership": "leave"})
        await room.write(ALICE, to={(MEMBER, BOB): kick, TOPIC: None})
        answer = await bob.sync(answer["next_batch"], **query)
        section = answer["rooms"]["leave"][room.room_id]
        # Bob never was in the room, and sees only that membership.
        part = "state_after" if query else "state"
        assert (shown(section), told(section, part)) == ([], {(MEMBER, BOB): kick})
        await room.write(ALICE, to={(MEMBER, BOB): invite})
        answer = await bob.sync(answer["next_batch"], **query)
        assert room.room_id in answer["rooms"]["invite"]
        await room.write(ALICE, to={(MEMBER, BOB): None})
        answer = await bob.sync(answer["next_batch"], **query)
        section = answer["rooms"]["leave"][room.room_id]
        assert (shown(section), told(section, part)) == ([], {})
        assert (await alice.writes.send(room.room_id, "still works")).status == 200


async def test_lost_frames_are_repaired(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room = await make_room(world, bob, carol)
        (topic,) = await room.events_of(TOPIC)
        tokens = [(await client.sync())["next_batch"] for client in (bob, carol)]
        leave = await room.soft_fail(CAROL, MEMBER, CAROL, {"membership": "leave"})
        world.bus.holding = True
        await room.write(ALICE, to={(MEMBER, BOB): None, (MEMBER, CAROL): leave, TOPIC: None})
        joins = await room.events_of((MEMBER, BOB))
        await room.write(ALICE, to={(MEMBER, BOB): joins[0], TOPIC: topic})
        world.bus.drop_held()
        await world.settle()
        answer = await bob.sync(tokens[0])
        assert told(answer["rooms"]["join"][room.room_id])[TOPIC] == topic
        assert room.room_id in (await carol.sync(tokens[1]))["rooms"]["leave"]
        members = (await alice.sync())["rooms"]["join"][room.room_id]["summary"]["m.joined_member_count"]
        assert members == 2


async def test_gap_cuts_the_timeline(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room = await make_room(world)
        token = (await alice.sync())["next_batch"]
        before = [await room.write(ALICE), await room.write(ALICE, gap=True), await room.write(ALICE)]
        topic = await room.write(ALICE, "m.room.topic", {"topic": "in between"}, state_key="")
        after = [await room.write(ALICE, gap=True), await room.write(ALICE)]
        for since in (token, None):
            for query, part in (({}, "state"), (AFTER, "state_after")):
                section = (await alice.sync(since, **query))["rooms"]["join"][room.room_id]
                assert (shown(section), section["timeline"]["limited"]) == (after, True)
                assert told(section, part)[TOPIC] == topic
                place = section["timeline"]["prev_batch"]
                page = (await alice.room(room.room_id, "messages", dir="b", limit=4, **{"from": place})).json
                assert [event["event_id"] for event in page["chunk"]] == [topic, *before[::-1]]
        # The next event has a gap before it: no stored event is left out, and yet events are missing.
        token = (await alice.sync(token))["next_batch"]
        last = await room.write(ALICE, gap=True)
        section = (await alice.sync(token))["rooms"]["join"][room.room_id]
        assert (shown(section), section["timeline"]["limited"]) == ([last], True)
        only = {"room": {"timeline": {"types": ["m.nothing"]}}}
        section = (await alice.sync(token, filter=only))["rooms"]["join"][room.room_id]
        assert (shown(section), section["timeline"]["limited"]) == ([], True)


class Follows:
    """A separate room cache, fed like a synchrotron's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metrics = SyncMetrics(CollectorRegistry())
        self.cache = self.fresh()
        self.lookups = RoomLookups(self.cache, world.database, world.database, self.metrics)
        decoder = wire.row_decoder(EventRow)

        def take(channel: str, message: bytes) -> None:
            for row in wire.decode_frame(message).rows:
                self.cache.apply_event(decoder.decode(row))

        world.bus.subscribe([EVENTS.channel], take, lambda: None)

    def fresh(self) -> RoomCache:
        return RoomCache(self.world.database, self.world.database, 1 << 26, self.metrics)


def looks_back(room: CachedRoom, start: int) -> dict[Any, str | None]:
    """Return the state before each ordinal from `start` on, as far as it is in memory."""
    keys = [*(key for key in room.state if key[0] != MEMBER), ("m.absent", "")]
    found = {
        (key, place): room.state_before(key, place) for key in keys for place in range(start, room.last_ordinal + 2)
    }
    assert all(found[key, room.last_ordinal + 1].known for key in keys)
    return {
        place: None if value.event is None else value.event.event_id for place, value in found.items() if value.known
    }


def assert_same(kept: CachedRoom, fresh: CachedRoom) -> None:
    """Compare an updated room with a freshly loaded one, as far as both have data."""
    start = max(kept.changes_from, fresh.changes_from, kept.first_ordinal, fresh.first_ordinal)
    assert start <= kept.last_ordinal + 1 == fresh.last_ordinal + 1
    one, other = looks_back(kept, start), looks_back(fresh, start)
    for place in one.keys() & other.keys():
        assert one[place] == other[place], place
    now = [
        {place for place, event_id in each.items() if event_id and place[1] > kept.last_ordinal}
        for each in (one, other)
    ]
    assert now[0] == now[1]
    parts = []
    for room in (kept, fresh):
        events = room.events_between(start - 1, room.last_ordinal)
        changes = room.changes_between(start - 1, room.last_ordinal)
        assert changes is not None
        parts.append(
            (
                [event.event_id for event in events],
                sorted((held.since, held.key, (held.event and held.event.event_id) or "") for held in changes),
                room.visibility,
                [(event.event_id, event.previous) for event in events if event.previous and event.type != MEMBER],
            )
        )
    for mine, theirs in zip(*parts, strict=True):
        assert mine == theirs


@pytest.mark.parametrize("max_changes", [1000, 6])
async def test_memory_equals_postgres(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch, max_changes: int
) -> None:
    monkeypatch.setattr(cached_room, "MAX_CHANGES", max_changes)
    monkeypatch.setattr(room_cache, "MAX_CHANGES", max_changes)
    monkeypatch.setattr(room_loader, "MAX_CHANGES", max_changes)
    monkeypatch.setattr(room_loader, "KEPT_EVENTS", 12)
    monkeypatch.setattr(room_loader, "LOADED_EVENTS", 8)
    dice = random.Random(max_changes)
    async with fleet(postgres.dsn) as world:
        room = await make_room(world)
        follows = Follows(world)
        keys = [TOPIC, ("m.room.name", ""), ("m.room.history_visibility", ""), (MEMBER, BOB), (MEMBER, ALICE)]
        for key in keys:
            value = {"history_visibility": "joined", "membership": "join"}
            await room.soft_fail(ALICE, *key, value)
        kept = await follows.cache.get(room.room_id)
        for _ in range(50):
            choices = {key: (*await room.events_of(key), None) for key in dice.sample(keys, dice.randrange(5))}
            to = {key: dice.choice(ids) for key, ids in choices.items()}
            to = {key: event_id for key, event_id in to.items() if event_id or key in await room.state()}
            state_key = dice.choice((None, ""))
            kind = "m.room.message" if state_key is None else "m.room.topic"
            await room.write(ALICE, kind, state_key=state_key, wins=dice.random() < 0.5, to=to)
            if dice.random() < 0.5:
                kept = await follows.cache.get(room.room_id)
                fresh = await follows.fresh().get(room.room_id)
                assert kept is not None and fresh is not None
                assert_same(kept, fresh)
                assert max(len(kept.changes), len(fresh.changes)) <= max_changes
                # From memory or not, it equals Postgres.
                last = kept.last_ordinal
                for place in (2, last - 30, last - 9, last - 4, last, last + 1):
                    rows = await get_state_before(world.database, kept.room_nid, place)
                    events = [event_from_row(kept.version, row) for row in rows]
                    truth = {event.key: event.event_id for event in events}
                    no_members = {key: event_id for key, event_id in truth.items() if key and key[0] != MEMBER}
                    for one in (kept, fresh):
                        state = await follows.lookups.state_before(one, place, members=True)
                        assert {key: event.event_id for key, event in state.items()} == truth
                        state = await follows.lookups.state_before(one, place, members=False)
                        assert {key: event.event_id for key, event in state.items()} == no_members
                        state = await follows.lookups.keys_before(one, place, keys)
                        assert {key: event.event_id for key, event in state.items()} == {
                            key: truth[key] for key in keys if key in truth
                        }
                changes = await get_key_history(world.database, kept.room_nid, MEMBER, BOB)
                for start in (1, last - 4, last):
                    for one in (kept, fresh):
                        found = await follows.lookups.member_history(one, BOB, start)
                        everything = history(changes, "membership")
                        assert found == everything[len(everything) - len(found) :]
                        before = [value_before(each, start) or "leave" for each in (found, everything)]
                        assert before[0] == before[1]


async def test_old_state_of_a_key_that_returned(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_loader, "LOADED_EVENTS", 3)
    async with fleet(postgres.dsn) as world:
        room = await make_room(world)
        (first,) = await room.events_of(TOPIC)
        second = await room.write(ALICE, "m.room.topic", {"topic": "second"}, state_key="")
        await room.write(ALICE, to={TOPIC: first})
        for _ in range(4):
            await room.write(ALICE)
        follows = Follows(world)
        read = await follows.cache.get(room.room_id)
        assert read is not None
        for steps, expected in ((4, first), (5, second), (6, first)):
            state = await follows.lookups.keys_before(read, read.last_ordinal + 1 - steps, [TOPIC])
            assert state[TOPIC].event_id == expected


async def test_lazy_loading_leaves_out_members_who_left_the_state(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room = await make_room(world, bob)
        token = (await alice.sync())["next_batch"]
        await bob.writes.send(room.room_id, "the last one")
        await room.write(ALICE, to={(MEMBER, BOB): None})
        lazy = {"room": {"state": {"lazy_load_members": True}}}
        for query, part in (({}, "state"), (AFTER, "state_after")):
            section = (await alice.sync(token, filter=lazy, **query))["rooms"]["join"][room.room_id]
            assert len(shown(section)) == 2
            assert set(told(section, part)) == {(MEMBER, ALICE)}


async def test_room_that_no_request_needs_is_evicted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        room = await make_room(world)
        follows = Follows(world)
        await follows.cache.get(room.room_id)
        await room.write(ALICE, to={TOPIC: None})
        for _ in range(19):
            await room.write(ALICE)
        assert len(follows.cache._rooms) == 1
        await room.write(ALICE)
        assert (len(follows.cache._rooms), follows.cache.size_bytes) == (0, 0)
        read = await follows.cache.get(room.room_id)
        assert read is not None and TOPIC not in {key for key, held in read.state.items() if held.event}
