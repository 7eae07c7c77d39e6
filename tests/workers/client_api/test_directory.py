"""Aliases and joined rooms."""

from shared.core.identifiers import RoomId, UserId
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from tests.workers.client_api.rooms import put_room

_ROOM = RoomId("!room:example.org")


async def test_aliases_are_created_resolved_listed_and_deleted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob, eve = [await worker.register(name) for name in ("alice", "bob", "eve")]
        members = {alice.user_id: "join", bob.user_id: "join", UserId("@x:other.org:8448"): "join"}
        await put_room(worker, _ROOM, members, power_levels={"users": {bob.user_id: 50}})
        await put_room(worker, RoomId("!open:example.org"), {}, history_visibility="world_readable")
        path = "/directory/room/%23tea%20time:example.org"
        assert (await worker.call("GET", path)).errcode == "M_NOT_FOUND"
        assert (await alice.call("PUT", path, {"room_id": _ROOM})).json == {}
        again = await alice.call("PUT", path, {"room_id": _ROOM})
        assert (again.status, again.errcode) == (409, "M_UNKNOWN")
        found = await worker.call("GET", path)
        assert found.json == {"room_id": _ROOM, "servers": ["example.org", "other.org:8448"]}
        listed = await bob.call("GET", f"/rooms/{_ROOM}/aliases")
        assert listed.json == {"aliases": ["#tea time:example.org"]}
        assert (await eve.call("GET", f"/rooms/{_ROOM}/aliases")).errcode == "M_FORBIDDEN"
        assert (await eve.call("GET", "/rooms/!open:example.org/aliases")).json == {"aliases": []}
        assert (await eve.call("GET", "/rooms/!no:example.org/aliases")).errcode == "M_FORBIDDEN"

        assert (await eve.call("DELETE", path)).errcode == "M_FORBIDDEN"
        assert (await bob.call("DELETE", path)).json == {}  # Bob may set the canonical alias
        assert (await bob.call("DELETE", path)).errcode == "M_NOT_FOUND"
        await bob.call("PUT", path, {"room_id": _ROOM})
        assert (await alice.call("DELETE", path)).errcode == "M_FORBIDDEN"
        assert (await bob.call("DELETE", path)).status == 200  # Bob created it

        for target, body, status, errcode in (
            ("nonsense", {"room_id": _ROOM}, 400, "M_INVALID_PARAM"),
            ("%23a%00:example.org", {"room_id": _ROOM}, 400, "M_INVALID_PARAM"),
            ("%23" + "a" * 255 + ":example.org", {"room_id": _ROOM}, 400, "M_INVALID_PARAM"),
            ("%23:example.org", {"room_id": _ROOM}, 400, "M_INVALID_PARAM"),
            ("%23a:other.org", {"room_id": _ROOM}, 400, "M_INVALID_PARAM"),
            ("%23a:example.org", {"room_id": "x"}, 400, "M_INVALID_PARAM"),
            ("%23a:example.org", {}, 400, "M_BAD_JSON"),
            ("%23a:example.org", {"room_id": 1}, 400, "M_BAD_JSON"),
            ("%23a:example.org", {"room_id": "!no:example.org"}, 403, "M_FORBIDDEN"),
        ):
            answer = await alice.call("PUT", f"/directory/room/{target}", body)
            assert (answer.status, answer.errcode) == (status, errcode), target


async def test_alias_is_deleted_by_its_creator_without_power(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await put_room(worker, _ROOM, {alice.user_id: "join", bob.user_id: "join"})
        path = "/directory/room/%23tea:example.org"
        assert (await alice.call("PUT", path, {"room_id": _ROOM})).json == {}
        assert (await bob.call("DELETE", path)).errcode == "M_FORBIDDEN"
        # Alice may not change m.room.canonical_alias, but the alias is hers.
        assert (await alice.call("DELETE", path)).status == 200
        assert (await worker.call("GET", path)).errcode == "M_NOT_FOUND"


async def test_publishing_a_room_needs_power(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob, eve = [await worker.register(name) for name in ("alice", "bob", "eve")]
        levels = {"users": {bob.user_id: 50}, "state_default": 50}
        members = {user.user_id: "join" for user in (alice, bob)}
        await put_room(worker, _ROOM, members, power_levels=levels)
        path = f"/directory/list/room/{_ROOM}"
        assert (await eve.call("GET", path)).json == {"visibility": "private"}
        for user in (alice, eve):
            assert (await user.call("PUT", path, {"visibility": "public"})).errcode == "M_FORBIDDEN"
        assert (await bob.call("PUT", path, {"visibility": "public"})).json == {}
        assert (await eve.call("GET", path)).json == {"visibility": "public"}
        assert (await bob.call("PUT", path, {"visibility": "private"})).json == {}
        assert (await eve.call("GET", path)).json == {"visibility": "private"}
        assert (await bob.call("PUT", path)).json == {}  # public is the default
        assert (await eve.call("GET", path)).json == {"visibility": "public"}
        unknown = "/directory/list/room/!none:example.org"
        for method, target, body, errcode in (
            ("GET", unknown, None, "M_NOT_FOUND"),
            ("PUT", unknown, {}, "M_NOT_FOUND"),
            ("PUT", path, {"visibility": "x"}, "M_BAD_JSON"),
            ("GET", "/directory/list/room/x", None, "M_INVALID_PARAM"),
        ):
            assert (await bob.call(method, target, body)).errcode == errcode, target


async def test_joined_rooms_lists_only_joined_rooms(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        assert (await alice.call("GET", "/joined_rooms")).json == {"joined_rooms": []}
        for name, membership in (("a", "join"), ("b", "leave"), ("c", "invite"), ("d", "join")):
            await put_room(worker, RoomId(f"!{name}:example.org"), {alice.user_id: membership})
        rooms = (await alice.call("GET", "/joined_rooms")).json["joined_rooms"]
        assert rooms == ["!a:example.org", "!d:example.org"]
