"""POST /rooms/{roomId}/upgrade: the state of the new and the old room, and resumption after every possible cut."""

import asyncio
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from replication.streams.fenced_writer import FencedWriter
from shared.core.errors import Fenced, RemoteServerError
from shared.core.identifiers import RoomId
from shared.core.slots import slot_of
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.worker import SERVER, make_config
from tests.spec_answers import check_answer

VERSIONS = [str(number) for number in range(1, 13)]


async def upgrade(user: User, room_id: RoomId, version: str = "11", **more: Any) -> RoomId:
    answer = await user.act(room_id, "upgrade", {"new_version": version, **more})
    assert answer.status == 200, answer.body
    check_answer("room_upgrades.yaml", "/rooms/{roomId}/upgrade", "post", answer.json)
    new_room_id: RoomId = answer.json["replacement_room"]
    return new_room_id


async def furnished_room(persister: Persister, alice: User, version: str) -> RoomId:
    """Make a space with all state that an upgrade copies, and two banned users."""
    room_id = await alice.create_room(
        room_version=version,
        preset="public_chat",
        name="Bees",
        topic="Honey",
        room_alias_name="bees",
        visibility="public",
        creation_content={"type": "m.space", "m.federate": False},
    )
    for kind, content in STATE.items():
        assert (await alice.put_state(room_id, kind, content)).status == 200, kind
    child = {"via": [SERVER], "order": "a"}
    for key in ("!child:example.org", "!other:example.org"):
        assert (await alice.put_state(room_id, "m.space.child", child, key)).status == 200
    assert (await alice.put_state(room_id, "org.example.own", {"of": "alice"})).status == 200
    assert (await alice.put_state(room_id, "m.room.pinned_events", {"pinned": ["$a"]})).status == 200
    for name, reason in (("eve", "spam"), ("mallory", None)):
        assert (await alice.act(room_id, "ban", {"user_id": f"@{name}:{SERVER}", "reason": reason})).status == 200
    assert (await persister.user("bob").act(room_id, "join")).status == 200
    return room_id


STATE: dict[str, dict[str, Any]] = {
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
    "m.room.avatar": {"url": "mxc://example.org/abc"},
    "m.room.server_acl": {"allow": ["*"], "deny": ["evil.example.org"]},
    "m.room.history_visibility": {"history_visibility": "joined"},
    "m.room.guest_access": {"guest_access": "can_join"},
}


async def users_of(persister: Persister, room_id: RoomId) -> Any:
    return (await persister.content(room_id, "m.room.power_levels"))["users"]


@pytest.mark.parametrize(("old", "new"), [("1", "12"), ("12", "1"), ("12", "12"), ("6", "11"), ("11", "3")])
async def test_upgrade_copies_state_to_the_new_room(postgres: TestDatabase, old: str, new: str) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await furnished_room(persister, alice, old)
        last = (await persister.timeline(room_id))[-1]["event_id"]
        new_id = await upgrade(alice, room_id, new)
        if new != "12":  # in version 12 the tombstone needs the new room's create event first
            [last] = [row["event_id"] for row in await persister.timeline(room_id) if row["type"] == "m.room.tombstone"]

        create = await persister.content(new_id, "m.room.create")
        assert create["room_version"] == new
        assert create["predecessor"] == {"room_id": room_id, "event_id": last}
        assert (create["type"], create["m.federate"]) == ("m.space", False)
        for kind in (*STATE, "m.room.name", "m.room.topic", "m.room.join_rules"):
            assert await persister.content(new_id, kind) == await persister.content(room_id, kind), kind
        for key in ("!child:example.org", "!other:example.org"):
            assert await persister.content(new_id, "m.space.child", key) == {"via": [SERVER], "order": "a"}
        assert await persister.content(new_id, "m.room.canonical_alias") == {"alias": f"#bees:{SERVER}"}
        assert await persister.content(new_id, "org.example.own") is None
        assert await persister.content(new_id, "m.room.pinned_events") is None
        ban = await persister.content(new_id, "m.room.member", f"@eve:{SERVER}")
        assert ban == {"membership": "ban", "reason": "spam"}
        assert await persister.content(new_id, "m.room.member", f"@mallory:{SERVER}") == {"membership": "ban"}
        assert await persister.content(new_id, "m.room.member", f"@bob:{SERVER}") is None
        levels = await persister.content(new_id, "m.room.power_levels")
        assert (levels["users"] == {}) if new == "12" else (levels["users"][alice.user_id] >= 100)
        if new == "12":
            assert levels["events"]["m.room.tombstone"] == 150

        tombstone = await persister.content(room_id, "m.room.tombstone")
        assert tombstone["replacement_room"] == new_id
        assert await persister.content(room_id, "m.room.canonical_alias") == {}
        muted = await persister.content(room_id, "m.room.power_levels")
        assert (muted["events_default"], muted["invite"]) == (50, 50)
        assert (await persister.user("bob").send(room_id, "still here?")).status == 403
        assert (await alice.send(new_id, "welcome")).status == 200
        rows = await persister.sql("SELECT room_id, is_public FROM rooms")
        assert {row["room_id"]: row["is_public"] for row in rows} == {room_id: False, new_id: True}
        alias = await persister.user("bob").call("POST", f"/join/{quote(f'#bees:{SERVER}', safe='')}", {})
        assert alias.json == {"room_id": new_id}


async def test_upgrade_between_any_room_versions(postgres_module: TestDatabase) -> None:
    """Upgrade each version to the version six steps ahead, to the one before it, and to itself."""
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        for index, old in enumerate(VERSIONS):
            room_id = await alice.create_room(room_version=old, name=old)
            for new in (VERSIONS[(index + 6) % 12], VERSIONS[index - 1], old):
                room_id = await upgrade(alice, room_id, new)
                assert (await persister.content(room_id, "m.room.create"))["room_version"] == new
                assert await persister.content(room_id, "m.room.name") == {"name": old}
                levels = {**await persister.content(room_id, "m.room.power_levels"), "redact": 49}
                assert (await alice.put_state(room_id, "m.room.power_levels", levels)).status == 200


async def test_upgrade_converts_creators_and_power_levels(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.create_room(room_version="10", preset="public_chat")
        for user in (bob, carol):
            await user.act(room_id, "join")
        levels = await persister.content(room_id, "m.room.power_levels")
        levels["users"] |= {bob.user_id: 60, carol.user_id: 100}
        levels["events"]["m.room.tombstone"] = 60
        assert (await alice.put_state(room_id, "m.room.power_levels", levels)).status == 200
        assert (await alice.put_state(room_id, "m.room.server_acl", {"allow": ["*"]})).status == 200

        # Bob may send the tombstone but needs more power to copy all state. The upgrade grants it temporarily.
        second = await upgrade(bob, room_id, "11")
        assert await users_of(persister, second) == levels["users"]
        assert await persister.content(second, "m.room.server_acl") == {"allow": ["*"]}
        assert (await bob.put_state(second, "m.room.server_acl", {})).status == 403
        muted = await persister.content(room_id, "m.room.power_levels")
        assert muted == levels, "Bob may not change them"

        for user in (alice, carol):
            await user.act(second, "join")
        third = await upgrade(carol, second, "12", additional_creators=[alice.user_id, "@far:elsewhere.org"])
        create = await persister.content(third, "m.room.create")
        assert create["additional_creators"] == [alice.user_id, "@far:elsewhere.org"]
        assert "creator" not in create
        assert await users_of(persister, third) == {bob.user_id: 60}
        # Additional creators are not copied.
        fourth = await upgrade(carol, third, "12")
        assert "additional_creators" not in await persister.content(fourth, "m.room.create")
        # A creator without a level there gets the greatest level here.
        await alice.act(third, "join")
        fifth = await upgrade(carol, fourth, "11", additional_creators=["nobody cares"])
        assert await users_of(persister, fifth) == {bob.user_id: 60, carol.user_id: 150}


async def test_upgrade_converts_join_rules_unknown_to_the_version(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        allow = [{"type": "m.room_membership", "room_id": "!x:example.org"}]
        for rule, version, then in (
            ("knock_restricted", "10", "knock_restricted"),
            ("knock_restricted", "9", "restricted"),
            ("knock_restricted", "7", "knock"),
            ("restricted", "7", "invite"),
            ("knock", "6", "invite"),
            ("public", "1", "public"),
        ):
            content = {"join_rule": rule, "allow": allow}
            room_id = await alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": content}])
            new_id = await upgrade(alice, room_id, version)
            assert await persister.content(new_id, "m.room.join_rules") == {"join_rule": then, "allow": allow}


async def test_upgrade_converts_numbers_that_newer_versions_refuse(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(
            room_version="3",
            initial_state=[{"type": "m.room.encryption", "content": {"rotation": 604800000.0, "x": [1.5, 2**60]}}],
            power_level_content_override={"ban": 50.9, "redact": 7, "users": {alice.user_id: 100.0}},
        )
        new_id = await upgrade(alice, room_id, "11")
        kept = await persister.content(new_id, "m.room.encryption")
        assert kept == {"rotation": 604800000, "x": [1, 2**53 - 1]}
        levels = await persister.content(new_id, "m.room.power_levels")
        assert (levels["ban"], levels["redact"], levels["users"]) == (50, 7, {alice.user_id: 100})


async def test_refused_upgrades(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob, guest = (persister.user(name) for name in ("alice", "bob", "guest"))
        persister.tokens.guests.add(guest.user_id)
        room_id = await alice.create_room(preset="public_chat", room_version="11")
        await bob.act(room_id, "join")
        for user, body, errcode in (
            (alice, {"new_version": "13"}, "M_UNSUPPORTED_ROOM_VERSION"),
            (alice, {"new_version": 12}, "M_BAD_JSON"),
            (alice, {}, "M_BAD_JSON"),
            (alice, {"new_version": "12", "additional_creators": ["bob"]}, "M_INVALID_PARAM"),
            (bob, {"new_version": "12"}, "M_FORBIDDEN"),
            (guest, {"new_version": "12"}, "M_GUEST_ACCESS_FORBIDDEN"),
            (persister.user("stranger"), {"new_version": "12"}, "M_FORBIDDEN"),
        ):
            answer = await user.act(room_id, "upgrade", body)
            assert answer.errcode == errcode, (body, answer.body)
        nowhere = await alice.act(RoomId("!nowhere:example.org"), "upgrade", {"new_version": "12"})
        assert (nowhere.status, nowhere.errcode) == (404, "M_NOT_FOUND")
        assert await persister.content(room_id, "m.room.tombstone") is None
        assert not await persister.sql("SELECT 1 FROM room_upgrades WHERE old_room_id = $1", room_id)


async def test_upgrade_leaves_bans_behind_when_configured(postgres_module: TestDatabase) -> None:
    base = make_config()
    config = make_config(rooms=type(base.rooms)(upgrade_copies_bans=False))
    async with event_persister(postgres_module.dsn, config=config) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        await alice.act(room_id, "ban", {"user_id": f"@eve:{SERVER}"})
        new_id = await upgrade(alice, room_id)
        assert await persister.content(new_id, "m.room.member", f"@eve:{SERVER}") is None


async def test_upgrade_copies_many_bans_in_parts(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_version="11")
        for number in range(230):
            await alice.act(room_id, "ban", {"user_id": f"@eve{number}:{SERVER}"})
        new_id = await upgrade(alice, room_id, "10")
        [row] = await persister.sql(
            """SELECT count(*) FROM memberships JOIN rooms USING (room_nid)
               WHERE room_id = $1 AND membership = 'ban'""",
            new_id,
        )
        assert row[0] == 230


async def test_repeated_upgrade_returns_the_same_room(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_version="11")
        first = await upgrade(alice, room_id, "12")
        assert await upgrade(alice, room_id, "12") == first
        # A request for another version is another upgrade.
        assert await upgrade(alice, room_id, "11") != first
        at_once = await asyncio.gather(*(upgrade(alice, first, "11") for _ in range(5)))
        assert len(set(at_once)) == 1


@pytest.mark.parametrize("new", ["11", "12"])
async def test_upgrade_cut_at_any_write_resumes_and_makes_one_room(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    """Each statement of an upgrade is lost once, on a new room. Then a new process resumes."""
    monkeypatch.setattr("replication.calls.owner_calls._GIVE_UP_AFTER_S", 0.0)
    process = Cut(monkeypatch)
    cut = 0
    while True:
        cut += 1
        async with event_persister(postgres.dsn) as persister:
            alice = persister.user("alice")
            room_id = await alice.create_room(
                room_version="10", name="Bees", room_alias_name=f"bees{cut}", visibility="public"
            )
            for number in range(3):
                await alice.act(room_id, "ban", {"user_id": f"@eve{number}:{SERVER}"})
            before = {row[0] for row in await persister.sql("SELECT room_id FROM rooms")}
            process.begin(cut)
            answer = await alice.act(room_id, "upgrade", {"new_version": new})
            reached = process.reached
            process.begin(0)
            if not reached:
                assert answer.status == 200
                break
            assert answer.status == 503, answer.body
        async with event_persister(postgres.dsn) as persister:
            alice = persister.user("alice")
            if cut % 2:  # resumed by the client's retry, or by the job
                await upgrade(alice, room_id, new)
            elif await persister.sql("SELECT 1 FROM room_upgrades WHERE old_room_id = $1", room_id):
                resumed = await persister.internal("PUT", f"/_skep/rooms/{quote(room_id)}/upgrade", {})
                assert resumed.status == 200, resumed.body
            else:
                continue  # the upgrade had not begun
            made = {row[0] for row in await persister.sql("SELECT room_id FROM rooms")} - before
            assert len(made) == 1, made
            [new_id] = made
            tombstones = [row for row in await persister.timeline(room_id) if row["type"] == "m.room.tombstone"]
            assert len(tombstones) == 1
            assert (await persister.content(room_id, "m.room.tombstone"))["replacement_room"] == new_id
            assert (await persister.content(new_id, "m.room.member", f"@eve2:{SERVER}"))["membership"] == "ban"
            assert await persister.content(new_id, "m.room.canonical_alias") == {"alias": f"#bees{cut}:{SERVER}"}
            rows = await persister.sql("SELECT room_id FROM rooms WHERE is_public AND room_id = $1", new_id)
            assert len(rows) == 1
            rows = await persister.sql("SELECT ended FROM room_upgrades WHERE old_room_id = $1", room_id)
            assert [row["ended"] for row in rows] == [True]
    assert cut >= 6


class Cut:
    """Makes processes lose their lease at the numbered fenced statement after `begin`, before or after its write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.seen, self.reached = 0, 0, False
        write = FencedWriter.write

        async def may_fail(writer: FencedWriter, *args: Any, **more: Any) -> Any:
            self.seen += bool(self.at)
            if not self.at or self.seen < self.at:
                return await write(writer, *args, **more)
            if self.seen == self.at and self.at % 3 == 0:
                await write(writer, *args, **more)
            self.reached = True
            raise Fenced("cut")

        monkeypatch.setattr(FencedWriter, "write", may_fail)

    def begin(self, at: int) -> None:
        """Start counting. at: the number of the statement; 0 for never."""
        self.at, self.seen, self.reached = at, 0, False


async def test_upgrade_between_two_persisters(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rooms belong to different persisters. One of them is unreachable for a while."""
    monkeypatch.setattr("replication.calls.owner_calls._GIVE_UP_AFTER_S", 0.1)
    async with event_persister(postgres.dsn) as one, event_persister(postgres.dsn) as other:
        room_id = await one.user("alice").create_room(room_version="11", name="Bees")
        mine = slot_of(room_id)
        one.slots.takes = lambda slot: slot == mine
        other.slots.takes = lambda slot: slot != mine
        alice = one.user("alice")
        answer = await alice.act(room_id, "upgrade", {"new_version": "12"})
        assert answer.status == 503, "the owner of the new room is unreachable"
        assert await one.content(room_id, "m.room.tombstone") is None
        one.router.other, other.router.other = other, one
        new_id = await upgrade(alice, room_id, "12")
        assert slot_of(new_id) != mine
        assert await one.content(new_id, "m.room.name") == {"name": "Bees"}
        assert (await one.content(room_id, "m.room.tombstone"))["replacement_room"] == new_id
        assert (await one.sql("SELECT count(*) FROM rooms"))[0][0] == 2


async def test_upgrade_that_is_no_longer_allowed_is_forgotten(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(room_version="11", preset="public_chat")
        await bob.act(room_id, "join")
        levels = await persister.content(room_id, "m.room.power_levels")
        with_bob = {**levels, "users": {alice.user_id: 100, bob.user_id: 99}, "events": {"m.room.tombstone": 99}}
        await alice.put_state(room_id, "m.room.power_levels", with_bob)
        client: Any = persister.foundation.http_client
        request = client.request

        async def refuse(*args: Any, **more: Any) -> Any:
            await alice.put_state(room_id, "m.room.power_levels", {**with_bob, "users": {alice.user_id: 100}})
            return await request(*args, **more)

        client.request = refuse
        answer = await bob.act(room_id, "upgrade", {"new_version": "11"})
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert await persister.content(room_id, "m.room.tombstone") is None
        assert not await persister.sql("SELECT 1 FROM room_upgrades")
        client.request = request
        await upgrade(alice, room_id)


async def test_members_who_join_the_new_room_get_settings_copied(postgres: TestDatabase) -> None:
    """The persister records it; `workers/background` and client_api copy the settings."""
    async with event_persister(postgres.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.create_room(preset="public_chat")
        new_id = await upgrade(alice, room_id, "12")
        await bob.act(new_id, "join")
        await carol.put_state(new_id, "m.room.member", {"membership": "join"}, carol.user_id)
        rows = await persister.sql("SELECT user_id, old_room_id, new_room_id FROM settings_to_copy")
        wanted = {(user.user_id, room_id, new_id) for user in (alice, bob, carol)}
        assert {tuple(row) for row in rows} == wanted
        plain = await alice.create_room(preset="public_chat")
        await bob.act(plain, "join")
        assert len(await persister.sql("SELECT 1 FROM settings_to_copy")) == 3


async def test_upgrade_retries_a_call_that_breaks_off(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        client: Any = persister.foundation.http_client
        request, calls = client.request, []

        async def breaks_once(*args: Any, **more: Any) -> Any:
            answer = await request(*args, **more)
            calls.append(answer)
            if len(calls) == 1:
                raise RemoteServerError("ConnectionLost")
            return answer

        client.request = breaks_once
        await upgrade(alice, room_id)
        assert len(calls) == 2
        assert (await persister.sql("SELECT count(*) FROM rooms"))[0][0] == 2


async def test_tombstone_keeps_its_predecessors(postgres: TestDatabase) -> None:
    """The new room has its id before it is sent. Events sent to the old room in between fork from it."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_version="11")
        client: Any = persister.foundation.http_client
        request, sent = client.request, []

        async def sends(*args: Any, **more: Any) -> Any:
            sent.append((await alice.send(room_id, "meanwhile")).json["event_id"])
            return await request(*args, **more)

        client.request = sends
        new_id = await upgrade(alice, room_id, "11")
        rows = await persister.timeline(room_id)
        [tombstone] = [row for row in rows if row["type"] == "m.room.tombstone"]
        create = await persister.content(new_id, "m.room.create")
        assert create is not None and create["predecessor"]["event_id"] == tombstone["event_id"]
        assert sent[0] in [row["event_id"] for row in rows]
        assert sent[0] not in orjson.loads(tombstone["json"])["prev_events"]
        assert (await persister.content(room_id, "m.room.tombstone") or {})["replacement_room"] == new_id
        assert (await persister.user("bob").send(room_id, "x")).status == 403
