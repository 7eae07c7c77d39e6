"""Changes of a user that their own classic sync must show."""

import asyncio

import pytest

from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet, soon
from tests.workers.synchrotron.devices import person, writers

_LIMIT_S = 20.0
_LAZY = '{"room":{"state":{"lazy_load_members":true}}}'


@pytest.mark.parametrize("filter_", ["{}", _LAZY])
async def test_own_display_name_wakes_the_own_sync_in_quiet_rooms(postgres: TestDatabase, filter_: str) -> None:
    """Nothing else happens in these rooms. Another member gets the same events."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        api.reach_rooms_at(world.persisters[0])
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        rooms = {await alice.reads.writes.create_room(preset="public_chat") for _ in range(3)}
        alone = await alice.reads.writes.create_room()
        for room_id in rooms:
            await bob.reads.writes.act(room_id, "join")
        for user, expected in ((alice, rooms | {alone}), (bob, rooms)):
            since = (await user.sync(filter=filter_))["next_batch"]
            waiting = asyncio.create_task(user.sync(since, timeout=60_000, filter=filter_))
            await soon(waiting)
            assert not waiting.done()
            name = f"Alice as {user.user_id} sees her"
            answer = await alice.writes.call(
                "PUT", f"/profile/{alice.writes.quoted}/displayname", {"displayname": name}
            )
            assert answer.status == 200, answer.body
            shown = set()
            async with asyncio.timeout(_LIMIT_S):
                told = await waiting
                while True:
                    for room_id, section in told["rooms"]["join"].items():
                        for event in section["timeline"]["events"]:
                            assert (event["type"], event["state_key"]) == ("m.room.member", alice.user_id)
                            assert event["content"] == {"membership": "join", "displayname": name}
                            shown.add(room_id)
                    if shown == expected:
                        break
                    told = await user.sync(told["next_batch"], timeout=60_000, filter=filter_)
