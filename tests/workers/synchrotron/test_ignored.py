"""Ignored users. Spec: client-server API, "Ignoring Users"."""

from typing import Any

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet
from tests.workers.synchrotron.sliding_client import SlidingClient, deployed, deployed_list, merged_list


async def test_invitations_by_ignored_users_are_hidden(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await bob.writes.create_room(invite=[alice.user_id])
        since = (await alice.sync())["next_batch"]
        assert room_id in (await alice.sync())["rooms"]["invite"]
        ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
        await world.set_account_data(alice.user_id, RoomId(""), "m.ignored_user_list", ignored)
        assert room_id not in (await alice.sync())["rooms"]["invite"]
        another = await bob.writes.create_room(invite=[alice.user_id])
        answer = await alice.sync(since)
        assert not {room_id, another} & answer["rooms"].get("invite", {}).keys()


async def test_user_learns_of_their_leave_before_a_hidden_invitation(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = world.user("alice"), world.user("bob"), world.user("carol")
        anybody = {"invite": 0}
        room_id = await bob.writes.create_room(preset="public_chat", power_level_content_override=anybody)
        never_in = await bob.writes.create_room(preset="public_chat")
        await alice.writes.act(room_id, "join")
        await carol.writes.act(room_id, "join")
        sliding = SlidingClient(alice, {"lists": {"all": merged_list(5)}})
        await sliding.sync()
        since = (await alice.sync())["next_batch"]
        ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
        await world.set_account_data(alice.user_id, RoomId(""), "m.ignored_user_list", ignored)
        await alice.writes.act(room_id, "leave")
        for room in (room_id, never_in):
            await bob.writes.act(room, "invite", {"user_id": alice.user_id})
        answer = await alice.sync(since)
        section = answer["rooms"]["leave"][room_id]
        assert section["timeline"]["events"][-1]["content"]["membership"] == "leave"
        assert set(answer["rooms"]["leave"]) == {room_id} and not answer["rooms"]["invite"]
        assert not (await alice.sync(answer["next_batch"]))["rooms"]["leave"]
        told = (await sliding.sync())["rooms"]
        assert set(told) == {room_id} and told[room_id]["membership"] == "leave"
        assert told[room_id]["timeline"][-1]["content"]["membership"] == "leave"
        assert not (await sliding.sync())["rooms"]
        await alice.writes.act(room_id, "leave")
        invited = await carol.writes.act(room_id, "invite", {"user_id": alice.user_id})
        assert invited.status == 200, invited.body
        assert set((await alice.sync(answer["next_batch"]))["rooms"]["invite"]) == {room_id}
        assert (await sliding.sync(10_000))["rooms"][room_id]["membership"] == "invite"


async def test_invitation_is_not_sent_again_after_its_sender_is_ignored(postgres: TestDatabase) -> None:
    """On a connection of the deployed form, where every room with `invite_state` is a new invitation."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await bob.writes.create_room(invite=[alice.user_id])
        lists = {"l": deployed_list()}
        answer = await deployed(alice, lists=lists)
        assert "invite_state" in answer["rooms"][room_id]
        ignored: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
        await world.set_account_data(alice.user_id, RoomId(""), "m.ignored_user_list", ignored)
        for action in (None, "kick", "invite", "ban"):
            if action is not None:
                assert (await bob.writes.act(room_id, action, {"user_id": alice.user_id})).status == 200
            await world.settle()
            answer = await deployed(alice, answer["pos"], lists=lists)
            assert "invite_state" not in answer["rooms"].get(room_id, {}), action
            ordered = await deployed(alice, conn_id=f"{action}", lists=lists)
            assert room_id not in ordered["rooms"] and ordered["lists"]["l"]["count"] == 0
