"""The unread counts of events: evaluated when an event is built, stored and announced with it.

`push_rig.Model` evaluates each event again for each member. Spec: client-server API, "Push Rules", "Receiving
notifications", "Threaded read receipts".
"""

import asyncio
import gc
import random
from collections.abc import Mapping
from types import MethodType
from typing import Any, cast
from urllib.parse import quote

import pytest

from replication.streams import PUSH_RULES
from shared.config.sections import PushRules as PushRulesConfig
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules import (
    DEFAULT_GROUP,
    NO_CHANGES,
    DefaultChange,
    RuleChanges,
    UserRule,
    changes_to_json,
)
from shared.core.push_rules.room_evaluator import RoomEvaluator
from shared.core.rows import PushRulesRow
from shared.core.unread import Count, CountedRows
from shared.storage.push.totals_check import get_wrong_totals
from shared.storage.push.unread import get_unread
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.worker import SERVER, make_config
from tests.workers.event_persister.graph_rig import BOB, CAROL, begin, deliver, forget_rooms, outcomes
from tests.workers.event_persister.push_rig import (
    HIGHLIGHT,
    NOTIFY,
    Model,
    Stored,
    check,
    check_announced,
    keyword,
    mentions_only,
    muted,
    of_sender,
    own_name,
    set_rules,
    take_timeline,
)
from tests.workers.event_persister.test_commits import POISON
from tests.workers.event_persister.test_graph import random_room

_TXN = (f"push{n}" for n in range(10**6))


async def send(user: User, room_id: RoomId, content: Mapping[str, Any], event_type: str = "m.room.message") -> EventId:
    path = f"/rooms/{quote(room_id, safe='')}/send/{event_type}/{next(_TXN)}"
    return (await user.call("PUT", path, content)).event_id


def text(body: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


def mention(*users: User, **more: Any) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": [user.user_id for user in users], **more}}


def related(rel_type: str, event_id: EventId, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


class Room:
    """Alice's room with Bob and Carol. `model` has the rules set with `rules`."""

    def __init__(self, persister: Persister, room_id: RoomId) -> None:
        self.persister = persister
        self.room_id = room_id
        self.model = Model("11")
        self.alice, self.bob, self.carol, self.dan = (persister.user(n) for n in ("alice", "bob", "carol", "dan"))

    @classmethod
    async def make(cls, persister: Persister, *, carol: bool = True) -> "Room":
        alice = persister.user("alice")
        room = cls(persister, await alice.create_room(preset="public_chat", room_version="11"))
        await room.bob.act(room.room_id, "join")
        if carol:
            await room.carol.act(room.room_id, "join")
        await take_timeline(persister, room.room_id, room.model)
        return room

    async def rules(self, user: User, changes: RuleChanges = NO_CHANGES, ignored: tuple[UserId, ...] = ()) -> None:
        await take_timeline(self.persister, self.room_id, self.model)
        await set_rules(self.persister, user.user_id, changes, ignored)
        self.model.rules[user.user_id] = (changes, frozenset(ignored))

    async def say(self, user: User, body: str = "hello", **more: Any) -> EventId:
        return await send(user, self.room_id, text(body, **more))

    async def checked(self) -> Stored:
        await take_timeline(self.persister, self.room_id, self.model)
        return await check(self.persister, self.room_id, self.model)

    def last(self, user: User) -> tuple[int, int]:
        """Return the counts of the latest event for a user, by the model."""
        ordinal = max(self.model.counted)
        return self.model.counted[ordinal][1][user.user_id]


async def test_members_with_default_rules_share_one_counter(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        for number in range(3):
            await room.say(room.alice, str(number))
        stored = await room.checked()
        last = stored.rows[-1]
        assert last["push"] == ((DEFAULT_GROUP, 3, 0),)
        assert (last["push_users"], last["push_groups"], last["push_redacted"]) == ([], [], [])
        assert not stored.groups
        check_announced(persister, stored, room.room_id)


async def test_counts_follow_each_kind_of_rule(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        alice, bob, carol, dan = room.alice, room.bob, room.carol, room.dan
        await dan.act(room.room_id, "join")
        await room.rules(bob, mentions_only(room.room_id))
        await room.rules(carol, muted(room.room_id))
        await room.say(alice, "plain")
        stored = await room.checked()
        assert (room.last(bob), room.last(carol), room.last(dan)) == ((0, 0), (0, 0), (1, 0))
        assert len({stored.group_of(user.user_id, 10**6) for user in (bob, carol, dan)}) == 3
        await room.say(alice, "you", **mention(bob, carol, dan, persister.user("nobody")))
        await room.checked()
        assert (room.last(bob), room.last(carol), room.last(dan)) == ((1, 1), (0, 0), (1, 1))
        await room.say(alice, "all", **mention(room=True))
        stored = await room.checked()
        assert (room.last(bob), room.last(dan)) == ((1, 1), (1, 1))
        assert stored.rows[-1]["push_users"] == [], "a counter, not a row per member"
        await room.say(dan, "may not call all", **mention(room=True))
        await room.checked()
        assert room.last(bob) == (0, 0)
        await room.rules(bob, keyword("beehive"))
        await room.say(alice, "into the Beehive!")
        await room.checked()
        assert room.last(bob) == (1, 1)
        await room.rules(bob, of_sender(dan.user_id))
        await room.say(dan)
        await room.checked()
        assert room.last(bob) == (0, 0)
        await room.rules(bob, ignored=(alice.user_id,))
        await room.say(alice, "you", **mention(bob))
        await room.checked()
        assert room.last(bob) == (0, 0)
        await room.rules(bob)
        await send(alice, room.room_id, {"msgtype": "m.notice", "body": "x"})
        await room.say(alice, "after all")
        stored = await room.checked()
        assert stored.group_of(bob.user_id, 10**6) == DEFAULT_GROUP
        assert room.last(bob) == (1, 0)
        check_announced(persister, stored, room.room_id)


async def test_counts_follow_display_names_and_room_sizes(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister, carol=False)
        alice, bob = room.alice, room.bob
        two = [UserRule("two", [NOTIFY, HIGHLIGHT], conditions=[{"kind": "room_member_count", "is": "2"}])]
        await room.rules(bob, NO_CHANGES.with_kind("override", two))
        await room.say(alice)
        await room.checked()
        assert room.last(bob) == (1, 1)
        await room.carol.act(room.room_id, "join")
        await room.say(alice)
        await room.checked()
        assert room.last(bob) == (1, 0)
        await room.rules(bob, own_name())
        member = {"membership": "join", "displayname": "Bob Bee"}
        await bob.put_state(room.room_id, "m.room.member", member, bob.user_id)
        await room.say(alice, "where is bob bee?")
        await room.checked()
        assert room.last(bob) == (1, 1)
        await room.rules(bob)
        await room.rules(bob, own_name())  # the name is no longer in memory and must be read
        await room.say(alice, "Bob Bee, again")
        await room.checked()
        assert room.last(bob) == (1, 1)
    async with event_persister(postgres_module.dsn) as persister:
        room.persister, room.alice = persister, persister.user("alice")
        await room.say(room.alice, "and bob bee after a move")
        await room.checked()
        assert room.last(bob) == (1, 1)


async def test_thread_is_found_over_three_relations(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        alice, bob = room.alice, room.bob
        root = await room.say(alice, "root")
        reply = await room.say(bob, "in it", **related("m.thread", root))
        edit = await room.say(bob, "* it", **related("m.replace", reply))
        other = await room.say(bob, "about the edit", **related("m.reference", edit))
        await send(alice, room.room_id, related("m.annotation", other, key="x"), "m.reaction")
        await send(alice, room.room_id, related("m.annotation", root, key="x"), "m.reaction")
        await room.say(alice, "of nothing", **related("m.reference", EventId("$nothing")))
        stored = await room.checked()
        assert [row["thread_id"] for row in stored.rows[-7:]] == ["", root, root, root, root, "", ""]
    async with event_persister(postgres_module.dsn) as persister:
        # The related event is not in memory, and its row has no thread id.
        room.persister, room.alice = persister, persister.user("alice")
        await persister.sql("UPDATE events SET thread_id = NULL WHERE event_id = $1", other)
        await send(room.alice, room.room_id, related("m.annotation", other, key="y"), "m.reaction")
        await persister.sql("UPDATE events SET thread_id = $2 WHERE event_id = $1", other, root)
        stored = await room.checked()
        assert stored.rows[-1]["thread_id"] == root


async def test_redaction_takes_back_the_counts(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        alice, bob, carol = room.alice, room.bob, room.carol
        await room.rules(carol, mentions_only(room.room_id))
        first = await room.say(bob, "for all", **mention(carol, room=True))
        await room.say(bob)
        redaction = (await bob.redact(room.room_id, first)).event_id
        await alice.redact(room.room_id, first)
        stored = await room.checked()
        at = room.model.ordinals[first]
        [row] = [row for row in stored.rows if row["event_id"] == redaction]
        [(ordinal, thread, groups, users)] = row["push_redacted"]
        assert (ordinal, thread, groups, users) == (at, "", ((DEFAULT_GROUP, 1, 0),), ((carol.user_id, 1, 1),))
        assert stored.rows[-1]["push_redacted"] == [], "only the first redaction takes counts back"
        assert (at, carol.user_id) not in stored.exceptions
        check_announced(persister, stored, room.room_id)
        # An event and its redaction in one batch.
        before = persister.bus.published[:]
        sent = asyncio.create_task(room.say(bob, "too quick", **mention(carol)))
        engine_busy = [asyncio.create_task(room.say(alice, str(n))) for n in range(3)]
        event_id = await sent
        await asyncio.gather(*engine_busy, bob.redact(room.room_id, event_id))
        check_announced(persister, await room.checked(), room.room_id)
        assert len(persister.bus.published) > len(before)


async def test_counts_follow_invites_joins_and_leaves(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        alice, bob, dan = room.alice, room.bob, room.dan
        await room.rules(dan, keyword("dan"))
        await alice.act(room.room_id, "invite", {"user_id": dan.user_id})
        stored = await room.checked()
        assert stored.rows[-1]["push_users"] == ((dan.user_id, 1, 0),)
        await room.rules(bob, muted(room.room_id))
        await dan.act(room.room_id, "join")
        await room.say(alice, "dan!")
        await room.checked()
        assert room.last(dan) == (1, 1)
        await bob.act(room.room_id, "leave")
        await room.say(alice, "bob is gone")
        await room.rules(bob)
        await room.rules(dan, keyword("another"))
        await bob.act(room.room_id, "join")
        await room.say(alice, "bob is back, dan")
        stored = await room.checked()
        assert (room.last(bob), room.last(dan)) == ((1, 0), (1, 0))
        groups = [group for _, group in stored.groups[bob.user_id]]
        assert groups[-1] == DEFAULT_GROUP
        await room.rules(dan, ignored=(alice.user_id,))
        await dan.act(room.room_id, "leave")
        await alice.act(room.room_id, "invite", {"user_id": dan.user_id})
        stored = await room.checked()
        assert stored.rows[-1]["push_users"] == [], "invites from an ignored user do not count"


async def test_invites_of_a_new_room_are_counted(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, erin, frank = (persister.user(name) for name in ("alice", "erin", "frank"))
        await set_rules(persister, erin.user_id, ignored=[alice.user_id])
        room = Room(persister, await alice.create_room(invite=[erin.user_id, frank.user_id], room_version="11"))
        room.model.rules[erin.user_id] = (NO_CHANGES, frozenset([alice.user_id]))
        stored = await room.checked()
        assert [row["push_users"] for row in stored.rows if row["push_users"]] == [((frank.user_id, 1, 0),)]


async def test_rebuilt_event_counts_once(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        room = await Room.make(persister)
        await persister.foundation.database.execute(POISON)
        room.dan = persister.user("dan")
        await room.rules(room.bob, keyword("k"))
        results = await asyncio.gather(
            room.say(room.alice, "k 1", **mention(room.carol)),
            send(room.alice, room.room_id, text("poison")),
            room.dan.act(room.room_id, "join"),
            room.say(room.alice, "k 2", **mention(room.carol)),
            room.carol.act(room.room_id, "leave"),
            room.say(room.alice, "k 3"),
            return_exceptions=True,
        )
        assert sum(isinstance(result, BaseException) for result in results) <= 1
        stored = await room.checked()
        check_announced(persister, stored, room.room_id)
        await room.say(room.alice, "k 4", **mention(room.carol, room.dan))
        await room.checked()
        assert (room.last(room.bob), room.last(room.dan)) == ((1, 1), (1, 1))


def _changes(chance: random.Random, room_id: RoomId, users: list[User]) -> RuleChanges:
    possible = [
        NO_CHANGES,
        NO_CHANGES,
        muted(room_id),
        mentions_only(room_id),
        muted(RoomId("!another:x")),
        own_name(),
        keyword(chance.choice(["bee", "hive", "honey"])),
        of_sender(chance.choice(users).user_id),
        of_sender(chance.choice(users).user_id, [NOTIFY, HIGHLIGHT]),
        NO_CHANGES.with_default(".m.rule.message", DefaultChange(enabled=False)),
        NO_CHANGES.with_default(".m.rule.master", DefaultChange(enabled=True)),
        NO_CHANGES.with_default(".m.rule.reaction", DefaultChange(enabled=False)),
    ]
    changes = chance.choice(possible)
    if chance.random() < 0.3:
        rule = UserRule("size", [], conditions=[{"kind": "room_member_count", "is": chance.choice(["<3", ">3"])}])
        changes = changes.with_kind("underride", [rule])
    return changes


async def _act(chance: random.Random, room: Room, users: list[User], sent: list[EventId]) -> None:
    user, other = chance.sample(users, 2)
    roll = chance.random()
    body = " ".join(chance.choices(["bee", "hive", "honey", "Name 1", "name 2", "x"], k=3))
    more: dict[str, Any] = {}
    if chance.random() < 0.3:
        more |= mention(*chance.sample(users, 2), room=chance.random() < 0.3)
    if sent and chance.random() < 0.4:
        kind = chance.choice(["m.thread", "m.replace", "m.reference"])
        more |= related(kind, chance.choice(sent[-12:] if chance.random() < 0.8 else sent))
    if roll < 0.5:
        event_type = chance.choice(["m.room.message"] * 4 + ["m.room.encrypted", "m.reaction"])
        content = text(body, **more) if event_type == "m.room.message" else {"x": 1, **more}
        path = f"/rooms/{quote(room.room_id, safe='')}/send/{event_type}/{next(_TXN)}"
        answer = await user.call("PUT", path, content)
        if answer.status == 200:
            sent.append(answer.event_id)
    elif roll < 0.6 and sent:
        await user.redact(room.room_id, chance.choice(sent))
    elif roll < 0.68:
        await user.act(room.room_id, "join")
    elif roll < 0.74:
        await user.act(room.room_id, "leave")
    elif roll < 0.8:
        await user.act(room.room_id, "invite", {"user_id": other.user_id})
    elif roll < 0.84:
        await room.alice.act(room.room_id, "kick", {"user_id": other.user_id})
    else:
        member = {"membership": "join", "displayname": f"name {chance.randrange(3)}"}
        await user.put_state(room.room_id, "m.room.member", member, user.user_id)


@pytest.mark.parametrize(
    ("seed", "steps"), [*((n, 6) for n in range(4)), *(pytest.param(n, 60, marks=pytest.mark.soak) for n in range(20))]
)
async def test_random_events_and_rules_match_the_model(postgres: TestDatabase, seed: int, steps: int) -> None:
    """Random events, members, rules and refused writes, while the room moves from persister to persister."""
    chance = random.Random(seed)

    async def part(room: Room | None) -> Room:
        async with event_persister(postgres.dsn) as persister:
            users = [persister.user(name) for name in ("alice", "bob", "carol", "dan", "erin", "frank")]
            if room is None:
                room = await Room.make(persister)
                await persister.foundation.database.execute(POISON)
            room.persister, room.alice = persister, users[0]
            sent = list(map(EventId, room.model.ordinals))
            for _ in range(steps):
                for user in chance.sample(users, chance.randrange(3)):
                    ignored = tuple(one.user_id for one in users if one is not user and chance.random() < 0.15)
                    await room.rules(user, _changes(chance, room.room_id, users), ignored)
                if chance.random() < 0.5:
                    await asyncio.gather(*(_act(chance, room, users, sent) for _ in range(chance.randrange(12))))
                else:
                    poison = _poisoned(room) if chance.random() < 0.3 else asyncio.sleep(0)
                    await asyncio.gather(*(_act(chance, room, users, sent) for _ in range(6)), poison)
                await take_timeline(persister, room.room_id, room.model)
            stored = await room.checked()
            check_announced(persister, stored, room.room_id)
            return room

    current = await part(None)
    for _ in range(2):
        current = await part(current)


async def _poisoned(room: Room) -> None:
    path = f"/rooms/{quote(room.room_id, safe='')}/send/m.room.message/{next(_TXN)}"
    await room.alice.call("PUT", path, text("poison"))


def _memory(persister: Persister, room_id: RoomId) -> RoomEvaluator:
    """Return the persister's evaluator of the room, found through the listeners for new rules."""
    [listener] = persister.foundation.follower._followed[PUSH_RULES.name].listeners
    rules: Any = cast("MethodType", listener).__self__
    [push] = [push for push in rules._rooms if push.evaluator.room_id == room_id]
    judge: RoomEvaluator = push.evaluator
    return judge


@pytest.mark.parametrize("seed", range(3))
async def test_members_in_memory_match_the_room_state(postgres: TestDatabase, seed: int) -> None:
    """Includes rooms where forks and state resolution decide the members, and writes that were undone."""
    async with event_persister(postgres.dsn) as persister:
        await set_rules(persister, UserId(f"@alice:{SERVER}"), mentions_only(RoomId("!any:where")), [BOB])
        graph = await random_room(persister, "11", seed, 40)
        [[room_nid, room_id]] = await persister.sql("SELECT room_nid, room_id FROM rooms")
        alice = persister.user("alice")
        await set_rules(persister, alice.user_id, muted(room_id))
        answer = await alice.send(room_id, "the room is in memory")
        joined = await persister.sql(
            "SELECT user_id, is_local FROM memberships WHERE room_nid = $1 AND membership = 'join'", room_nid
        )
        gc.collect()  # remove dropped copies of the room
        judge = _memory(persister, room_id)
        assert judge.joined == len(joined)
        assert judge.local == sum(row["is_local"] for row in joined) == (answer.status == 200)
        own = [count for _, count in judge._groups.values()]
        assert own == [1] * judge.local, "Alice's own group"
        assert len(graph.events) > 30
        assert await get_wrong_totals(persister.foundation.database, room_nid, 10) == []


async def test_remote_events_are_counted_when_they_enter_the_timeline(postgres: TestDatabase) -> None:
    """Events outside of the timeline are not counted."""
    async with event_persister(postgres.dsn) as persister:
        room_id, graph, alice = await begin(persister, "11")
        for sender in (BOB, CAROL):
            joined = graph.make(sorted(graph.extremities), sender, "m.room.member", {"membership": "join"}, sender)
            graph.arrive(joined)
            assert set(outcomes(await deliver(persister, room_id, [joined])).values()) == {"accepted"}
        mentions = mention(alice)
        outlier = graph.make(sorted(graph.extremities), BOB, "m.room.message", text("later", **mentions))
        await deliver(persister, room_id, [outlier], outlier=True)
        counted = "SELECT count(*) FROM push_counters"
        assert (await persister.sql(counted))[0][0] == 0
        await deliver(persister, room_id, [outlier])
        graph.arrive(outlier)
        ban = graph.make([outlier.event_id], BOB, "m.room.member", {"membership": "ban"}, CAROL)
        await deliver(persister, room_id, [ban])
        failed = graph.make([outlier.event_id], CAROL, "m.room.message", text("too late", **mentions))  # beside the ban
        assert set(outcomes(await deliver(persister, room_id, [failed])).values()) == {"soft_failed"}
        rows = await persister.sql("SELECT ordinal, notifies, highlights FROM push_counters")
        exceptions = await persister.sql("SELECT user_id, ordinal, notifies, highlights FROM push_exceptions")
        [at] = {row["ordinal"] for row in await persister.timeline(room_id) if row["event_id"] == outlier.event_id}
        assert [tuple(row) for row in rows] == [(at, 1, 0)]
        assert [tuple(row) for row in exceptions] == [(alice.user_id, at, 0, 1)]


async def test_rule_change_during_room_load_is_not_lost(postgres: TestDatabase) -> None:
    """A row of the stream that arrives during the load takes effect, and a late old row has no effect."""
    async with event_persister(postgres.dsn) as persister:
        room = await Room.make(persister)
        changes = muted(room.room_id)
        await room.rules(room.bob, changes)
        forget_rooms(persister)
        sending = asyncio.create_task(room.say(room.alice, "read it"))
        await asyncio.sleep(0)
        await room.rules(room.bob, keyword("bee"))
        await sending
        await room.say(room.alice, "a bee")
        await take_timeline(persister, room.room_id, room.model)
        assert room.last(room.bob) == (1, 1)
        stored = await Stored.read(persister, room.room_id)
        last = max(room.model.counted)
        assert stored.counted(last, "", room.bob.user_id, joined=True) == (1, 1)
        [listener] = persister.foundation.follower._followed[PUSH_RULES.name].listeners
        listener([PushRulesRow(position=1, writer=1, user_id=room.bob.user_id, rules=changes_to_json(changes))])
        await room.say(room.alice, "another bee")
        stored = await Stored.read(persister, room.room_id)
        assert stored.counted(last + 1, "", room.bob.user_id, joined=True) == (1, 1)


async def test_only_events_sent_by_the_user_mark_a_room_as_read(postgres_module: TestDatabase) -> None:
    """The server sends delayed events, and member events after a profile change. They do not move the read position."""
    async with event_persister(postgres_module.dsn) as persister:
        room = await Room.make(persister)
        await room.say(room.alice, "hey", **mention(room.bob))
        rows = await persister.timeline(room.room_id)

        async def unread(user: User) -> Count:
            end = len(await persister.timeline(room.room_id))
            return (await get_unread(persister.foundation.database, user.user_id, rows[0]["room_nid"], end)).counts.get(
                "", Count(0, 0)
            )

        async def say_for(user: User, delay_id: str) -> None:
            path = f"/_skep/rooms/{quote(room.room_id, safe='')}/delayed_event"
            event = {
                "delay_id": delay_id,
                "sender": user.user_id,
                "type": "m.room.message",
                "state_key": None,
                "content": text("later"),
                "again": True,  # the rig has no rate limiter
            }
            assert (await persister.internal("PUT", path, event)).json["event_id"]

        assert await unread(room.bob) == Count(1, 1)
        await say_for(room.bob, "first")
        assert await unread(room.bob) == Count(1, 1)
        assert await unread(room.carol) == Count(2, 0)
        await persister.sql("INSERT INTO profiles VALUES ($1, 'displayname', '\"Bob\"')", room.bob.user_id)
        path = f"/_skep/rooms/{quote(room.room_id, safe='')}/member_profile"
        assert (await persister.internal("PUT", path, {"user_id": room.bob.user_id})).json["event_id"]
        assert await unread(room.bob) == Count(1, 1)
        # With these rules the sender's own event would have other counts than for their group.
        await room.rules(room.bob, keyword("later"))
        await say_for(room.bob, "second")
        assert await unread(room.bob) == Count(1, 1)
        await room.say(room.bob, "I am here")
        assert await unread(room.bob) == Count(0, 0)
        [first, *_] = [row for row in persister.bus.rows() if row.event_id == rows[-1]["event_id"]]
        counted = CountedRows(first.ordinal - 1)
        announced = [row for row in persister.bus.rows() if row.ordinal >= first.ordinal]
        for row in announced:
            counted.add(row, accepted=True)
        own = [row.ordinal for row in counted.between(0, counted.last_ordinal) if row.sender == room.bob.user_id]
        assert own == [announced[-1].ordinal]


async def test_redacted_names_mention_nobody(postgres: TestDatabase) -> None:
    config = make_config(push_rules=PushRulesConfig(legacy_mentions=True))
    async with event_persister(postgres.dsn, config=config) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")

        async def highlights(body: str) -> bool:
            await send(alice, room_id, text(body))
            stored = await Stored.read(persister, room_id)
            return bool(stored.counted(stored.rows[-1]["ordinal"], "", bob.user_id, joined=True)[1])

        for name, loaded in (("Rude", True), ("Ruder", False)):
            member = {"membership": "join", "displayname": name}
            event_id = (await bob.put_state(room_id, "m.room.member", member, bob.user_id)).event_id
            assert await highlights(f"hello {name}")
            assert (await alice.redact(room_id, event_id)).status == 200
            if not loaded:
                forget_rooms(persister)
            assert not await highlights(f"hello {name}, redacted"), name
            assert await highlights("hello bob")


async def test_legacy_mentions_find_members_by_their_names(postgres: TestDatabase) -> None:
    """A server may offer the rules that v1.17 removed, for bridges and old clients that send no `m.mentions`."""
    config = make_config(push_rules=PushRulesConfig(legacy_mentions=True))
    async with event_persister(postgres.dsn, config=config) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        for user, name in ((bob, "Bob the Bee"), (carol, "Carol")):
            await persister.sql(
                "INSERT INTO profiles VALUES ($1, 'displayname', $2)", user.user_id, f'"{name}"'.encode()
            )
        room_id = await alice.create_room(preset="public_chat")
        for user in (bob, carol):
            await user.act(room_id, "join")

        async def highlighted(body: str, sender: User = alice, **more: Any) -> set[str]:
            await send(sender, room_id, text(body, **more))
            stored = await Stored.read(persister, room_id)
            last = stored.rows[-1]["ordinal"]
            members = [user.user_id for user in (alice, bob, carol) if user is not sender]
            return {one[1:].partition(":")[0] for one in members if stored.counted(last, "", one, joined=True)[1]}

        for loaded in (True, False):
            if not loaded:
                forget_rooms(persister)
            assert await highlighted("hello bob the BEE") == {"bob"}
            assert await highlighted("bob and carol") == {"bob", "carol"}, "the user name, the display name"
            assert await highlighted("@room") == {"bob", "carol"}
            assert await highlighted("@room", sender=bob) == set(), "without the permission"
            assert await highlighted("carol @room", **mention(bob)) == {"bob"}, "this client knows m.mentions"
            assert await highlighted("nobody") == set()
        member = {"membership": "join", "displayname": "Melissa"}
        assert (await bob.put_state(room_id, "m.room.member", member, bob.user_id)).status == 200
        assert await highlighted("the bee melissa") == {"bob"}
        assert await highlighted("the bee") == set()
        dan = persister.user("dan")
        await dan.act(room_id, "join")
        await send(alice, room_id, text("hello dan"))
        stored = await Stored.read(persister, room_id)
        assert stored.counted(stored.rows[-1]["ordinal"], "", dan.user_id, joined=True) == (1, 1)
