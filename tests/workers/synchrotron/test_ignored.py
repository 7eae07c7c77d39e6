"""Who is ignored. Spec: client-server API, "Ignoring Users"."""

from tests.fix_servers import TestDatabase
from tests.workers.event_persister.rig import run
from tests.workers.synchrotron.rig import fleet


def test_invites_of_the_ignored_are_hidden(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, bob = world.user("alice"), world.user("bob")
            room_id = await bob.writes.create_room(invite=[alice.user_id])
            since = (await alice.sync())["next_batch"]
            assert room_id in (await alice.sync())["rooms"]["invite"]
            ignored = {"ignored_users": {bob.user_id: {}}}
            await world.set_account_data(alice.user_id, "", "m.ignored_user_list", ignored)
            assert room_id not in (await alice.sync())["rooms"]["invite"]
            another = await bob.writes.create_room(invite=[alice.user_id])
            answer = await alice.sync(since)
            assert not {room_id, another} & answer["rooms"].get("invite", {}).keys()

    run(scenario())
