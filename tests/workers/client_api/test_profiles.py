"""Profiles, and their way into the member events of rooms."""

import asyncio

from replication.calls.rooms import MemberProfileAnswer, MemberProfileChange
from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId
from shared.runtime.tasks import TaskGroup
from shared.storage.accounts.profiles import note_profile_change
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from tests.workers.client_api.rooms import put_room
from workers.client_api.people.member_profiles import MemberProfileSender


async def test_profile_fields_are_stored_and_validated(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        base = f"/profile/{alice.quoted}"
        assert (await worker.call("GET", base)).json == {"displayname": "alice"}
        values = {
            "displayname": "Alice 🐝 \x00",
            "avatar_url": "https://example.org/a.png",
            "m.tz": "Europe/London",
            "org.example.job": {"title": ["bee", 1.5, None]},
            "m.example_field": None,
        }
        for key, value in values.items():
            assert (await alice.call("PUT", f"{base}/{key}", {key: value})).json == {}, key
            assert (await worker.call("GET", f"{base}/{key}")).json == {key: value}
        assert (await bob.call("GET", base)).json == values
        assert (await alice.call("DELETE", f"{base}/m.tz")).json == {}
        assert (await alice.call("DELETE", f"{base}/m.tz")).json == {}
        assert (await worker.call("GET", f"{base}/m.tz")).errcode == "M_NOT_FOUND"
        assert (await alice.call("PUT", f"{base}/displayname", {"displayname": ""})).status == 200
        assert "displayname" not in (await worker.call("GET", base)).json
        assert (await worker.call("GET", f"{base}/displayname")).json == {}, "only unknown users are 404"
        assert (await worker.call("GET", f"/profile/{bob.quoted}/avatar_url")).json == {}
        assert (await worker.call("GET", "/profile/@nobody:example.org/displayname")).errcode == "M_NOT_FOUND"

        for path, body, status, errcode in (
            (f"{base}/displayname", {"displayname": 1}, 400, "M_BAD_JSON"),
            (f"{base}/displayname", {"displayname": "x" * 257}, 400, "M_INVALID_PARAM"),
            (f"{base}/displayname", {}, 400, "M_MISSING_PARAM"),
            (f"{base}/avatar_url", {"avatar_url": "x" * 1001}, 400, "M_INVALID_PARAM"),
            (f"{base}/m.tz", {"m.tz": 5}, 400, "M_BAD_JSON"),
            (f"{base}/Upper.case", {"Upper.case": 5}, 400, "M_INVALID_PARAM"),
            (f"{base}/nospace", {"nospace": 5}, 400, "M_INVALID_PARAM"),
            (f"{base}/a.{'b' * 254}", {}, 400, "M_KEY_TOO_LARGE"),
            (f"{base}/org.example.big", {"org.example.big": "x" * 65536}, 400, "M_PROFILE_TOO_LARGE"),
            (f"/profile/{bob.quoted}/displayname", {"displayname": "x"}, 403, "M_FORBIDDEN"),
        ):
            answer = await alice.call("PUT", path, body)
            assert (answer.status, answer.errcode) == (status, errcode), path
        # Each field is small enough, both together are not.
        half = "x" * 40_000
        assert (await bob.call("PUT", f"/profile/{bob.quoted}/a.b", {"a.b": half})).status == 200
        both = await bob.call("PUT", f"/profile/{bob.quoted}/a.c", {"a.c": half})
        assert both.errcode == "M_PROFILE_TOO_LARGE"
        assert (await worker.call("GET", "/profile/@nobody:example.org")).errcode == "M_NOT_FOUND"
        assert (await worker.call("GET", "/profile/nonsense")).errcode == "M_INVALID_PARAM"
        assert (await worker.call("GET", "/profile/@a%00:example.org")).errcode == "M_INVALID_PARAM"


class _Rooms:
    """Owners of rooms that fail the first attempt for each room."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.running = self.most_running = 0

    async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        self.called.append(room_id)
        if self.called.count(room_id) == 1:
            raise Unavailable("not now")
        return MemberProfileAnswer()


async def test_profile_change_reaches_all_joined_rooms(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rooms = [RoomId(f"!{n}:example.org") for n in range(20)]
        for room in rooms:
            await put_room(worker, room, {alice.user_id: "join"})
        await put_room(worker, RoomId("!left:example.org"), {alice.user_id: "leave"})
        owners, tasks = _Rooms(), TaskGroup()
        sender = MemberProfileSender(worker.foundation.database, owners.set_member_profile, tasks)
        await asyncio.gather(*(sender.profile_changed(alice.user_id) for _ in range(5)))
        await sender.finished(alice.user_id)
        assert set(owners.called) == set(rooms)
        assert not await worker.sql("SELECT 1 FROM profile_changes")
        assert owners.most_running <= 8
        assert len(owners.called) <= 4 * len(rooms)  # concurrent changes share runs


async def test_profile_change_is_a_row_until_all_rooms_have_it(postgres: TestDatabase) -> None:
    """A background worker finishes a change if a room cannot be reached or this process dies."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await put_room(worker, RoomId("!a:example.org"), {alice.user_id: "join"})
        path = f"/profile/{alice.quoted}"
        for field, body, number in (
            ("displayname", {"displayname": "Alice"}, 0),
            ("avatar_url", {"avatar_url": "mxc://a/b"}, 1),
            ("displayname", {"displayname": ""}, 2),
        ):
            assert (await alice.call("PUT", f"{path}/{field}", body)).status == 200
            [row] = await worker.sql("SELECT user_id, number, look_at > now() AS later FROM profile_changes")
            assert tuple(row) == (alice.user_id, number, True), "no room can be reached here"
        assert (await alice.call("PUT", f"{path}/m.tz", {"m.tz": "Europe/Paris"})).status == 200
        assert (await alice.call("DELETE", f"{path}/avatar_url")).status == 200
        [row] = await worker.sql("SELECT number FROM profile_changes")
        assert row["number"] == 3, "member events do not hold m.tz"

        class Owners:
            async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
                if room_id == "!b:example.org":
                    await note_profile_change(worker.foundation.database, alice.user_id)
                return MemberProfileAnswer()

        tasks = TaskGroup()
        sender = MemberProfileSender(worker.foundation.database, Owners().set_member_profile, tasks)
        await sender.profile_changed(alice.user_id)
        assert not await worker.sql("SELECT 1 FROM profile_changes")
        # A change that is made while another one reaches the rooms keeps its row.
        await put_room(worker, RoomId("!b:example.org"), {alice.user_id: "join"})
        await sender.profile_changed(alice.user_id)
        assert len(await worker.sql("SELECT 1 FROM profile_changes")) == 1
        await tasks.close()
