"""The size of a room's state: processes that serve readers have all of it in memory, so nobody grows it for ever."""

from shared.config.sections import Limits
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.rigs.worker import make_config

_CONFIG = make_config(limits=Limits(max_room_state_bytes=200_000))


def _content(size: int) -> dict[str, str]:
    return {"text": "x" * size}


async def test_state_of_a_room_is_limited_by_bytes(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn, config=_CONFIG) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")
        answers = [await alice.put_state(room_id, "m.hoard", _content(30_000), f"k{number}") for number in range(9)]
        assert [answer.status for answer in answers] == [200] * 6 + [413] * 3
        assert answers[-1].errcode == "M_TOO_LARGE"
        # Members and messages, and other rooms, go on; what is there may shrink and be replaced.
        assert (
            await bob.put_state(room_id, "m.room.member", {"membership": "join", "x": "y"}, bob.user_id)
        ).status == 200
        for number in range(2):  # ... unless their events are as large as others
            invited, content = f"@guest{number}:far.example", {"membership": "ban"}
            large = await alice.put_state(room_id, "m.room.member", content | _content(40_000), invited)
            assert large.errcode == "M_TOO_LARGE"
            assert (await alice.put_state(room_id, "m.room.member", content, invited)).status == 200
        assert (await bob.send(room_id, "still here")).status == 200
        other = await alice.create_room()
        assert (await alice.put_state(other, "m.hoard", _content(30_000))).status == 200
        assert (await alice.put_state(room_id, "m.hoard", _content(29_000), "k0")).status == 200
        assert (await alice.put_state(room_id, "m.hoard", _content(60_000), "k1")).status == 413
        # As outsiders and members without power learn nothing of it.
        assert (await persister.user("eve").put_state(room_id, "m.hoard", _content(30_000), "e")).status == 403

    # Another process counts the same from what is stored.
    async with event_persister(postgres.dsn, config=_CONFIG) as persister:
        alice = persister.user("alice")
        assert (await alice.put_state(room_id, "m.hoard", _content(30_000), "k7")).status == 413
        assert (await alice.put_state(room_id, "m.hoard", {}, "k0")).status == 200
        assert (await alice.put_state(room_id, "m.hoard", {}, "k1")).status == 200
        assert (await alice.put_state(room_id, "m.hoard", _content(30_000), "k7")).status == 200


async def test_large_member_events_are_state(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn, config=_CONFIG) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        content = {"membership": "ban", **_content(30_000)}
        statuses = [
            (await alice.put_state(room_id, "m.room.member", content, f"@guest{number}:far.example")).status
            for number in range(9)
        ]
        assert statuses == [200] * 6 + [413] * 3
    async with event_persister(postgres.dsn, config=_CONFIG) as persister:
        alice = persister.user("alice")
        assert (await alice.put_state(room_id, "m.hoard", _content(30_000))).status == 413
        other = {"user_id": "@guest20:far.example", "reason": "x" * 30_000}
        assert (await alice.act(room_id, "ban", other)).status == 413
        assert (await alice.act(room_id, "ban", other | {"reason": "x"})).status == 200
        left = await alice.put_state(room_id, "m.room.member", {"membership": "leave"}, "@guest0:far.example")
        assert left.status == 200
        assert (await alice.put_state(room_id, "m.hoard", _content(30_000))).status == 200


async def test_small_state_events_count_with_what_they_take_in_memory(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn, config=_CONFIG) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        statuses = [(await alice.put_state(room_id, "m.hoard", {}, f"k{number}")).status for number in range(200)]
        assert 120 < statuses.count(200) < 190
