"""m.push_rules in /sync: always the whole set, to every device, once. Spec: "Push Rules: Events"."""

import asyncio
from typing import Any

from shared.core.push_rules import ALL_OFF, NO_CHANGES, UserRule, changes_to_json, full_ruleset
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet

_CHANGES = NO_CHANGES.with_kind("content", [UserRule("honey", ["notify"], pattern="honey")])
_RULES = changes_to_json(_CHANGES)


def _told(answer: dict[str, Any]) -> list[Any]:
    return [event["content"] for event in answer["account_data"]["events"] if event["type"] == "m.push_rules"]


async def test_every_device_gets_the_whole_set_of_rules(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob = world.user("alice"), world.user("bob")
        phone = world.user("alice", "PHONE")
        defaults = full_ruleset(NO_CHANGES, alice.user_id, ALL_OFF)
        changed = full_ruleset(_CHANGES, alice.user_id, ALL_OFF)
        first = [await client.sync() for client in (alice, phone, bob)]
        assert [len(_told(answer)) for answer in first] == [1, 1, 1]
        of_alice, of_phone, of_bob = [answer["next_batch"] for answer in first]
        assert _told(await alice.sync()) == [defaults]
        waiting = asyncio.create_task(phone.sync(of_phone, timeout=10_000))
        await world.set_push_rules(alice.user_id, _RULES)
        async with asyncio.timeout(5):
            assert _told(await waiting) == [changed]
        answer = await alice.sync(of_alice)
        assert _told(answer) == [changed]
        assert _told(await alice.sync(answer["next_batch"])) == []
        assert _told(await alice.sync()) == [changed]
        assert _told(await bob.sync(of_bob)) == []
        without = {"account_data": {"not_types": ["m.push_rules"]}}
        assert _told(await alice.sync(of_alice, filter=without)) == []
        # The ignore list is in the same row. Its changes are no changes of the rules.
        await world.set_push_rules(alice.user_id, _RULES, [bob.user_id])
        assert _told(await alice.sync(answer["next_batch"])) == []
        await world.set_push_rules(alice.user_id, b"", [bob.user_id])
        assert _told(await alice.sync(answer["next_batch"])) == [defaults]


async def test_first_sync_has_the_rules_written_just_before(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        await alice.sync()
        world.bus.holding = True
        await world.set_push_rules(alice.user_id, _RULES)
        async with asyncio.timeout(4):
            answer = await alice.sync()
        assert _told(answer) == [full_ruleset(_CHANGES, alice.user_id, ALL_OFF)]
        world.bus.release()
        assert _told(await alice.sync(answer["next_batch"])) == []
