"""Profiles, and how they reach the rooms."""

import asyncio

from replication.calls.rooms import MemberProfileAnswer, MemberProfileChange
from shared.core.errors import Unavailable
from shared.runtime.tasks import TaskGroup
from shared.storage.accounts.profiles import note_profile_change
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from tests.workers.client_api.rooms import put_room
from workers.client_api.people.member_profiles import MemberProfileSender


async def test_profile_fields(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        base = f"/profile/{alice.quoted}"
        assert (await worker.call("GET", base)).json == {"displayname": "alice"}
        values = {
            "displayname": "Alice 🐝 \x00", "avatar_url": "https://example.org/a.png", "m.tz": "Europe/London",
            "org.example.job": {"title": ["bee", 1.5, None]}, "m.example_field": None,
        }  # fmt: skip
        for key, value in values.items():
            assert (await alice.call("PUT", f"{base}/{key}", {key: value})).json == {}, key
            assert (await worker.call("GET", f"{base}/{key}")).json == {key: value}
        assert (await bob.call("GET", base)).json == values
        assert (await alice.call("DELETE", f"{base}/m.tz")).json == {}
        assert (await alice.call("DELETE", f"{base}/m.tz")).json == {}
        assert (await worker.call("GET", f"{base}/m.tz")).errcode == "M_NOT_FOUND"
        assert (await alice.call("PUT", f"{base}/displayname", {"displayname": ""})).status == 200
        assert "displayname" not in (await worker.call("GET", base)).json
        assert (await worker.call("GET", f"{base}/displayname")).json == {}, "404 is for unknown users"
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
        # Each field fits, both together do not.
        half = "x" * 40_000
        assert (await bob.call("PUT", f"/profile/{bob.quoted}/a.b", {"a.b": half})).status == 200
        both = await bob.call("PUT", f"/profile/{bob.quoted}/a.c", {"a.c": half})
        assert both.errcode == "M_PROFILE_TOO_LARGE"
        for user in ("@nobody:example.org", "@a:elsewhere.org"):
            assert (await worker.call("GET", f"/profile/{user}")).errcode == "M_NOT_FOUND"
        assert (await worker.call("GET", "/profile/nonsense")).errcode == "M_INVALID_PARAM"
        assert (await worker.call("GET", "/profile/@a%00:example.org")).errcode == "M_INVALID_PARAM"


class _Rooms:
    """Owners of rooms: the first attempt for each room fails, and each takes a turn of the loop."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        self.asked.append(room_id)
        if self.asked.count(room_id) == 1:
            raise Unavailable("not now")
        return MemberProfileAnswer()


async def test_a_new_name_reaches_all_rooms(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        rooms = [f"!{n}:example.org" for n in range(20)]
        for room in rooms:
            await put_room(worker, room, {alice.user_id: "join"})
        await put_room(worker, "!left:example.org", {alice.user_id: "leave"})
        owners, tasks = _Rooms(), TaskGroup()
        sender = MemberProfileSender(worker.foundation.database, owners.set_member_profile, tasks)
        await asyncio.gather(*(sender.profile_changed(alice.user_id) for _ in range(5)))
        await sender.finished(alice.user_id)
        assert set(owners.asked) == set(rooms)
        assert not await worker.sql("SELECT 1 FROM profile_changes")
        assert owners.most_at_once <= 8
        assert len(owners.asked) <= 4 * len(rooms)  # five changes at once are not five runs


async def test_profile_change_is_a_row_until_all_rooms_have_it(postgres: TestDatabase) -> None:
    """What this process cannot finish, because a room cannot be reached or it dies, a background worker does."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await put_room(worker, "!a:example.org", {alice.user_id: "join"})
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
        assert row["number"] == 3, "m.tz is in no member event"

        class Owners:
            async def set_member_profile(self, room_id: str, change: MemberProfileChange) -> MemberProfileAnswer:
                if room_id == "!b:example.org":
                    await note_profile_change(worker.foundation.database, alice.user_id)
                return MemberProfileAnswer()

        tasks = TaskGroup()
        sender = MemberProfileSender(worker.foundation.database, Owners().set_member_profile, tasks)
        await sender.profile_changed(alice.user_id)
        assert not await worker.sql("SELECT 1 FROM profile_changes")
        # A change that comes while another one is brought into the rooms keeps its row.
        await put_room(worker, "!b:example.org", {alice.user_id: "join"})
        await sender.profile_changed(alice.user_id)
        assert len(await worker.sql("SELECT 1 FROM profile_changes")) == 1
        await tasks.close()
