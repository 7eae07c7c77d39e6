"""Push rules and ignore lists in a persister: their memory and their work count once per user, not per room."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Sequence
from types import MethodType
from typing import cast

import pytest

from replication.streams import PUSH_RULES
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import ALL_OFF, NO_CHANGES, RuleChanges, UserRule, changes_to_json, compiled_rule
from shared.core.push_rules.ignored_users import IgnoredUsers
from shared.core.push_rules.room_evaluator import RoomEvaluator
from shared.core.rows import PushRulesRow
from shared.storage.push.rules_in_rooms import get_rules_of_users
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.workers.event_persister.graph_rig import forget_rooms
from tests.workers.event_persister.push_rig import HIGHLIGHT, NOTIFY, Stored, keyword, muted, set_rules
from tests.workers.event_persister.test_push import mention, send, text
from workers.event_persister.loading import push_rules as loading
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.room import room_push
from workers.event_persister.room.known_rules import KnownUsers

_SPAMMERS = tuple(UserId(f"@spammer{number}:example.org") for number in range(30_000))


def _push_rules(persister: Persister) -> PushRules:
    [listener] = persister.foundation.follower._followed[PUSH_RULES.name].listeners
    rules = cast("MethodType", listener).__self__
    assert isinstance(rules, PushRules)
    return rules


def _row(persister: Persister, user_id: str, position: int, ignored: Sequence[UserId]) -> PushRulesRow:
    return PushRulesRow(
        position=position, writer=persister.foundation.lease, user_id=UserId(user_id), ignored=tuple(ignored)
    )


async def _counts(persister: Persister, room_id: RoomId, user_id: str) -> tuple[int, int]:
    """Return the counts of the room's latest event for a user."""
    stored = await Stored.read(persister, room_id)
    return stored.counted(stored.rows[-1]["ordinal"], "", user_id, joined=True)


async def test_long_ignore_list_costs_once_and_not_per_room(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        rooms = [await alice.create_room(preset="public_chat") for _ in range(12)]
        for room_id in rooms:
            await bob.act(room_id, "join")
        await set_rules(persister, bob.user_id, ignored=[UserId("@nobody:x")])
        rules = _push_rules(persister)
        for room_id in rooms:
            await send(alice, room_id, text("hello"))
        small = rules.size_bytes
        spent = []
        for number, ignored in enumerate((_SPAMMERS, [*_SPAMMERS[:-1], alice.user_id])):
            began = time.thread_time()
            rules.apply([_row(persister, bob.user_id, 10**6 + number, ignored)])
            spent.append(time.thread_time() - began)
        assert spent[0] < 0.15 and spent[1] < 0.1, "it was 80 ms in each room"
        assert 30_000 * 80 < rules.size_bytes - small < 30_000 * 200
        before = rules.size_bytes
        began = time.thread_time()
        for room_id in rooms:
            await send(alice, room_id, text("hello", **mention(bob)))
            assert await _counts(persister, room_id, bob.user_id) == (0, 0), "Bob ignores Alice now"
        assert rules.size_bytes == before
        assert all(push.size_bytes < 10_000 for push in rules._rooms), "no room has the list"


async def test_user_is_dropped_with_the_last_room(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")
        await set_rules(persister, bob.user_id, keyword("honey"), [UserId("@spammer:x")])
        await send(alice, room_id, text("honey"))
        assert await _counts(persister, room_id, bob.user_id) == (1, 1)
        rules = _push_rules(persister)
        assert rules.size_bytes > 0 and len(rules._users.ignored_users) == 1
        forget_rooms(persister)
        gc.collect()
        assert (rules.size_bytes, len(rules._users.ignored_users)) == (0, 0)
        await set_rules(persister, bob.user_id, keyword("beehive"), [UserId("@spammer:x")])
        assert rules.size_bytes == 0, "no room in memory needs the rules"
        await send(alice, room_id, text("beehive"))
        assert await _counts(persister, room_id, bob.user_id) == (1, 1)


async def test_large_rules_are_read_once_for_all_rooms(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
        for room_id in rooms:
            await bob.act(room_id, "join")
            await carol.act(room_id, "join")
        await set_rules(persister, bob.user_id, keyword("honey"), _SPAMMERS)
        await set_rules(persister, carol.user_id, muted(rooms[1]))
        forget_rooms(persister)
        gc.collect()
        read: list[str] = []
        present = get_rules_of_users

        async def counted(source, user_ids):  # type: ignore[no-untyped-def]
            read.extend(user_ids)
            return await present(source, user_ids)

        monkeypatch.setattr(loading, "get_rules_of_users", counted)
        for room_id in rooms:
            await send(alice, room_id, text("honey"))
            assert await _counts(persister, room_id, bob.user_id) == (1, 1)
        assert read == [bob.user_id]
        assert await _counts(persister, rooms[1], carol.user_id) == (0, 0)


async def test_change_of_one_rule_compiles_one_rule_once(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rooms of a user share the compiled rules, and a user whom no room needs is not compiled at all."""
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        rooms = [await alice.create_room(preset="public_chat") for _ in range(3)]
        for room_id in rooms:
            await bob.act(room_id, "join")
        words = [UserRule(f"k{number}", [NOTIFY, HIGHLIGHT], pattern=f"word{number}") for number in range(100)]
        await set_rules(persister, bob.user_id, NO_CHANGES.with_kind("content", words))
        for room_id in rooms:
            await send(alice, room_id, text("word3"))
        compiled: list[str] = []
        present = compiled_rule.compile_rule

        def counted(kind, rule, switches):  # type: ignore[no-untyped-def]
            compiled.append(rule["rule_id"])
            return present(kind, rule, switches)

        monkeypatch.setattr(compiled_rule, "compile_rule", counted)
        words[3] = UserRule("k3", [NOTIFY, HIGHLIGHT], pattern="another")
        await set_rules(persister, bob.user_id, NO_CHANGES.with_kind("content", words))
        await set_rules(persister, UserId("@stranger:x"), keyword("honey"))
        assert compiled == [], "nothing is compiled before an event needs it"
        for room_id in rooms:
            await send(alice, room_id, text("word3 another"))
            assert await _counts(persister, room_id, bob.user_id) == (1, 1)
            await send(alice, room_id, text("word3"))
            assert await _counts(persister, room_id, bob.user_id) == (1, 0)
        assert compiled == ["k3"]


async def test_changes_of_many_users_let_others_run(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next event in a room needs the rules that changed. They are compiled one after the other, with pauses."""
    monkeypatch.setattr(room_push, "_APPLIED_AT_ONCE", 2)
    async with event_persister(postgres.dsn) as persister:
        alice, *others = (persister.user(name) for name in ("alice", "bob", "carol", "dan", "erin", "frank", "gil"))
        room_id = await alice.create_room(preset="public_chat")
        for user in others:
            await user.act(room_id, "join")
        words = [
            UserRule(
                f"r{n}",
                [NOTIFY, HIGHLIGHT],
                conditions=[{"kind": "event_match", "key": f"content.k{n}", "pattern": "x"}],
            )
            for n in range(900)
        ]
        for user in others:
            await set_rules(persister, user.user_id, NO_CHANGES.with_kind("override", words))
        gaps: list[float] = []

        async def watch() -> None:
            last = time.thread_time()
            while True:
                await asyncio.sleep(0)
                now = time.thread_time()
                gaps.append(now - last)
                last = now

        gc.disable()  # a collection takes as long as the whole work
        try:
            watching = asyncio.create_task(watch())
            await send(alice, room_id, text("hello", k7="x"))
            watching.cancel()
        finally:
            gc.enable()
        assert sum(gaps) > 0.03, "the rules were compiled for this event"
        assert max(gaps) < 0.5 * sum(gaps), "the work was done in pieces"
        for user in others:
            assert await _counts(persister, room_id, user.user_id) == (1, 1)


async def test_rules_that_take_too_many_steps_are_counted_and_logged(
    postgres: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")
        costly = [UserRule(f"k{n}", [NOTIFY, HIGHLIGHT], pattern=f"*{'ab?' * 5}{n}*") for n in range(90)]
        await set_rules(persister, bob.user_id, NO_CHANGES.with_kind("content", costly))
        for _ in range(2):
            await send(alice, room_id, text("ab" * 15_000))
            assert await _counts(persister, room_id, bob.user_id) == (1, 0), "the default rules go on"
        registry = persister.foundation.registry
        assert registry.get_sample_value("skep_persister_push_rules_exceeded_total") == 2
        warnings = [record.getMessage() for record in caplog.records if "push rules of" in record.getMessage()]
        assert len(warnings) == 1 and bob.user_id in warnings[0]


_SETS = {
    "keywords": NO_CHANGES.with_kind(
        "content", [UserRule(f"keyword{n}", [NOTIFY, HIGHLIGHT], pattern=f"keyword{n}") for n in range(300)]
    ),
    "patterns": NO_CHANGES.with_kind(
        "content", [UserRule(f"keyword{n}", [NOTIFY], pattern=f"*key{n}*word*") for n in range(100)]
    ),
    "rooms": NO_CHANGES.with_kind("room", [UserRule(f"!room{n}:example.org", []) for n in range(1000)]),
    "conditions": NO_CHANGES.with_kind(
        "override",
        [
            UserRule(
                f"r{n}",
                [NOTIFY],
                conditions=[
                    {"kind": "event_match", "key": f"content.key{n}.{k}", "pattern": f"value{n}{k}"} for k in range(10)
                ],
            )
            for n in range(100)
        ],
    ),
    "long values": NO_CHANGES.with_kind(
        "override",
        [
            UserRule(
                f"r{n}",
                [NOTIFY, {"set_tweak": "sound", "value": f"{n}" * 50}],
                conditions=[{"kind": "event_property_is", "key": "content.key", "value": f"{n}" * 150}],
            )
            for n in range(150)
        ],
    ),
}


@pytest.mark.parametrize("changes", _SETS.values(), ids=_SETS)
def test_accounted_size_of_rules_is_about_the_measured_one(changes: RuleChanges) -> None:
    _check_accounting(changes_to_json(changes), ())


def test_accounted_size_of_ignored_users_is_about_the_measured_one() -> None:
    _check_accounting(b"", _SPAMMERS[:20_000])


def _check_accounting(json: bytes, ignored: Sequence[UserId]) -> None:
    users = KnownUsers(ALL_OFF)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = []
        for number in range(5):
            theirs = tuple(UserId(f"{one}{number}") for one in ignored)
            known = users.take(UserId(f"@u{number}:x"), bytes(bytearray(json)), theirs, 1)
            kept.append((known, known.rules.in_room(RoomId("!somewhere:x"))))
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert measured / 1.5 < users.size_bytes < measured * 1.5, (measured, users.size_bytes)
    del known
    kept.clear()
    gc.collect()
    assert users.size_bytes == 0


def test_accounted_size_of_a_room_is_about_the_measured_one() -> None:
    """Of what a room keeps for its members: their places, and the index of their words."""
    users = KnownUsers(ALL_OFF)
    owners = []
    for number in range(300):
        words = [UserRule(f"k{n}", [NOTIFY], pattern=f"word{number}x{n}") for n in range(number % 6)]
        changes = NO_CHANGES.with_kind("content", words).with_kind("room", [UserRule(f"!{number % 3}:x", [])])
        owners.append(users.take(UserId(f"@u{number}:x"), changes_to_json(changes), (UserId("@s:x"),), 1))
        _ = owners[-1].rules.in_room(RoomId("!z:x"))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        room = RoomEvaluator(RoomId("!1:x"))
        room.use(ALL_OFF, users.ignored_users)
        for number, owner in enumerate(owners):
            room.set_rules(UserId(f"@u{number}:x"), owner, joined=True, name="Name")
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert measured / 1.5 < room.size_bytes < measured * 1.5, (measured, room.size_bytes)


def test_ignored_users_are_found_by_the_ignored_one() -> None:
    index = IgnoredUsers()
    index.replace(UserId("@a:x"), (), (UserId("@s:x"), UserId("@t:x")))
    index.replace(UserId("@b:x"), (), (UserId("@s:x"),))
    assert index.ignorers_of(UserId("@s:x")) == {"@a:x", "@b:x"} and index.ignorers_of(UserId("@t:x")) == {"@a:x"}
    index.replace(UserId("@a:x"), (UserId("@s:x"), UserId("@t:x")), (UserId("@t:x"), UserId("@v:x")))
    assert index.ignorers_of(UserId("@s:x")) == {"@b:x"} and index.ignorers_of(UserId("@v:x")) == {"@a:x"}
    index.replace(UserId("@b:x"), (UserId("@s:x"),), ())
    index.replace(UserId("@a:x"), (UserId("@t:x"), UserId("@v:x")), ())
    assert len(index) == 0 and index.ignorers_of(UserId("@s:x")) == frozenset()
