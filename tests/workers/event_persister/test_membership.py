"""Permission to join, leave, invite, kick and ban, and the checks before the room's own rules."""

import asyncio
from typing import Any

import orjson
import pytest

from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.rigs.worker import SERVER
from workers.event_persister.members.member_profile import MemberProfiles
from workers.event_persister.room_writer import RoomWriter

JOINED, LEFT = "join", "leave"


async def _membership(persister: Persister, room_id: RoomId, user_id: UserId) -> str | None:
    rows = await persister.sql(
        "SELECT m.membership, m.forgotten, m.is_local FROM memberships m JOIN rooms r USING (room_nid)"
        " WHERE r.room_id = $1 AND m.user_id = $2",
        room_id,
        user_id,
    )
    content = await persister.content(room_id, "m.room.member", user_id)
    assert (rows[0]["membership"] if rows else None) == (content["membership"] if content else None)
    assert not rows or rows[0]["is_local"]
    return rows[0]["membership"] if rows else None


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_invite_join_kick_and_ban(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.create_room(preset="private_chat", room_version=version)

        assert (await bob.act(room_id, "join")).errcode == "M_FORBIDDEN"
        assert (await bob.act(room_id, "invite", {"user_id": carol.user_id})).status == 403
        body = {"user_id": bob.user_id, "reason": "come in"}
        assert (await alice.act(room_id, "invite", body)).json == {}
        invite = await persister.content(room_id, "m.room.member", bob.user_id)
        assert invite == {"membership": "invite", "reason": "come in"}
        count = len(await persister.timeline(room_id))
        assert (await alice.act(room_id, "invite", body)).json == {}
        assert len(await persister.timeline(room_id)) == count, "invited already: nothing happens"

        assert (await bob.act(room_id, "join", {"reason": "hi"})).json == {"room_id": room_id}
        assert (await bob.act(room_id, "join")).json == {"room_id": room_id}
        assert len(await persister.timeline(room_id)) == count + 1, "joined already: nothing happens"
        assert (await alice.act(room_id, "invite", body)).status == 403
        assert (await bob.act(room_id, "kick", {"user_id": alice.user_id})).status == 403
        assert (await bob.act(room_id, "ban", {"user_id": carol.user_id})).status == 403

        assert (await alice.act(room_id, "kick", {"user_id": bob.user_id, "reason": "out"})).json == {}
        assert await _membership(persister, room_id, bob.user_id) == LEFT
        assert (await alice.act(room_id, "kick", {"user_id": bob.user_id})).status == 403
        assert (await bob.send(room_id, "still here?")).status == 403

        assert (await alice.act(room_id, "unban", {"user_id": bob.user_id})).status == 403
        assert (await alice.act(room_id, "ban", {"user_id": bob.user_id})).json == {}
        assert await _membership(persister, room_id, bob.user_id) == "ban"
        assert (await alice.act(room_id, "invite", body)).status == 403
        assert (await bob.act(room_id, "leave")).status == 403
        assert (await alice.act(room_id, "unban", {"user_id": bob.user_id})).json == {}
        assert await _membership(persister, room_id, bob.user_id) == LEFT
        assert (await bob.act(room_id, "leave")).json == {}, "left already: nothing happens"
        assert (await carol.act(room_id, "leave")).status == 403, "was never a member"
        # A second persister finds the same in the stored state.
        async with event_persister(postgres_module.dsn) as second:
            assert (await second.user("bob").act(room_id, "join")).status == 403
            assert (await second.user("alice").act(room_id, "invite", body)).json == {}
            assert (await second.user("bob").act(room_id, "join")).status == 200


async def test_forgetting_a_room(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        assert (await bob.act(room_id, "forget")).status == 403
        await bob.act(room_id, "join")
        refused = await bob.act(room_id, "forget")
        assert (refused.status, refused.errcode) == (400, "M_UNKNOWN")
        await bob.act(room_id, "leave")
        assert (await bob.act(room_id, "forget")).json == {}

        async def forgotten() -> bool:
            [row] = await persister.sql(
                "SELECT forgotten FROM memberships JOIN rooms USING (room_nid) WHERE room_id = $1 AND user_id = $2",
                room_id,
                bob.user_id,
            )
            return bool(row[0])

        assert await forgotten()
        await alice.act(room_id, "ban", {"user_id": bob.user_id})
        assert await forgotten(), "a ban does not undo it"
        await alice.act(room_id, "unban", {"user_id": bob.user_id})
        await bob.act(room_id, "join")
        assert not await forgotten()
        assert (await bob.act(RoomId("!nowhere:example.org"), "forget")).status == 404


async def test_member_events_carry_the_profile(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("shown_alice"), persister.user("shown_bob")

        async def show(user_id: UserId, **fields: str) -> None:
            await persister.sql("DELETE FROM profiles WHERE user_id = $1", user_id)
            for name, value in fields.items():
                await persister.sql("INSERT INTO profiles VALUES ($1, $2, $3)", user_id, name, orjson.dumps(value))

        await show(alice.user_id, displayname="Alice")
        await show(bob.user_id, displayname="Bob", avatar_url="mxc://example.org/bob")
        room_id = await alice.create_room(preset="public_chat", invite=[bob.user_id], is_direct=True)
        assert await persister.content(room_id, "m.room.member", alice.user_id) == {
            "membership": JOINED,
            "displayname": "Alice",
        }
        assert await persister.content(room_id, "m.room.member", bob.user_id) == {
            "membership": "invite",
            "displayname": "Bob",
            "avatar_url": "mxc://example.org/bob",
            "is_direct": True,
        }
        await bob.act(room_id, "join", {"reason": "because"})
        await show(bob.user_id, displayname="Robert")
        path = f"/_skep/rooms/{room_id}/member_profile"
        told = await persister.internal("PUT", path, {"user_id": bob.user_id})
        assert told.event_id
        assert await persister.content(room_id, "m.room.member", bob.user_id) == {
            "membership": JOINED,
            "displayname": "Robert",
        }
        again = await persister.internal("PUT", path, {"user_id": bob.user_id})
        assert again.json == {"event_id": None}
        stranger = await persister.internal("PUT", path, {"user_id": f"@nobody:{SERVER}"})
        assert stranger.json == {"event_id": None}
        assert (await bob.call("PUT", path, {"user_id": bob.user_id})).status == 404, "clients cannot call it"


@pytest.mark.parametrize("how", ["join", "create", "fails"])
async def test_profile_that_changes_during_a_join_is_shown(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The change found the room without the user, and the join read the profile before the change."""
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        write = (
            "INSERT INTO profiles VALUES ($1, 'displayname', $2) ON CONFLICT (user_id, field) DO UPDATE SET value = $2"
        )
        await persister.sql(write, bob.user_id, b'"Old"')
        module = "workers.event_persister.room_writer.RoomWriter"
        for name in ("write", "write_new_room"):
            original = getattr(RoomWriter, name)

            async def changing(self: Any, *args: Any, original: Any = original, **more: Any) -> Any:
                result = await original(self, *args, **more)
                await persister.sql(write, bob.user_id, b'"New"')
                return result

            monkeypatch.setattr(f"{module}.{name}", changing)
        if how == "fails":
            monkeypatch.setattr(MemberProfiles, "update", _unavailable)
        if how == "create":
            room_id = await bob.create_room()
        else:
            assert (await bob.act(room_id, "join")).status == 200
        shown = await persister.content(room_id, "m.room.member", bob.user_id)
        assert shown["displayname"] == ("Old" if how == "fails" else "New")
        rows = await persister.sql("SELECT user_id FROM profile_changes")
        assert [row["user_id"] for row in rows] == ([bob.user_id] if how == "fails" else []), "left to the job"


async def _unavailable(*args: Any) -> None:
    raise Unavailable("not now")


async def test_guests_leave_when_access_ends(postgres_module: TestDatabase) -> None:
    """Spec: client-server API, "Guest Access"."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, guest = persister.user("alice"), persister.user("guest")
        persister.tokens.guests.add(guest.user_id)
        await persister.sql("INSERT INTO users (user_id, kind, created_ms) VALUES ($1, 'guest', 0)", guest.user_id)
        closed = await alice.create_room(preset="public_chat")
        refused = await guest.act(closed, "join")
        assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
        assert (await guest.call("POST", "/createRoom", {})).errcode == "M_GUEST_ACCESS_FORBIDDEN"
        opened = await alice.create_room(
            preset="public_chat",
            initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}],
        )
        assert (await guest.act(opened, "join")).status == 200
        assert (await guest.send(opened, "hello")).status == 200
        assert (await guest.act(opened, "invite", {"user_id": alice.user_id})).status == 403

        async def gone() -> None:
            async with asyncio.timeout(5):
                while (  # noqa: ASYNC110 - the answer to Alice does not wait for it
                    await persister.content(opened, "m.room.member", guest.user_id)
                )["membership"] != LEFT or await persister.sql("SELECT 1 FROM guest_removals"):
                    await asyncio.sleep(0.02)
            assert await _membership(persister, opened, guest.user_id) == LEFT

        kind, admitted = "m.room.guest_access", {"guest_access": "can_join"}
        assert (await alice.put_state(opened, kind, {"guest_access": "forbidden"})).status == 200
        await gone()
        # A redaction removes the permission too.
        allowed = (await alice.put_state(opened, kind, admitted)).event_id
        assert (await guest.act(opened, "join")).status == 200
        assert (await alice.redact(opened, allowed)).status == 200
        await gone()
        # If the process dies in between, a background worker calls the next owner.
        await alice.put_state(opened, kind, admitted)
        assert (await guest.act(opened, "join")).status == 200
        await persister.sql("INSERT INTO guest_removals (of_room_id, look_at) VALUES ($1, now())", opened)
        path = f"/_skep/rooms/{opened}/guests"
        assert (await persister.internal("PUT", path, {})).status == 200
        assert await _membership(persister, opened, guest.user_id) == JOINED, "the guest may stay"
        assert not await persister.sql("SELECT 1 FROM guest_removals")
        tasks: Any = persister.foundation.tasks
        spawn = tasks.spawn
        tasks.spawn = lambda run, name: run.close() if name == "turn out guests" else spawn(run, name)
        await alice.put_state(opened, kind, {})
        assert await _membership(persister, opened, guest.user_id) == JOINED
    async with event_persister(postgres_module.dsn) as persister:
        assert (await persister.internal("PUT", path, {})).status == 200
        assert await _membership(persister, opened, guest.user_id) == LEFT
        assert not await persister.sql("SELECT 1 FROM guest_removals")


async def test_members_of_allowed_room_join_restricted_room(postgres_module: TestDatabase) -> None:
    """Spec: client-server API, "Restricted rooms": a local user with invite power authorises the join."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        space = await alice.create_room(preset="public_chat")
        rules = {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}, {"type": "unknown"}, 3],
        }
        room_id = await alice.create_room(
            initial_state=[{"type": "m.room.join_rules", "content": rules}],
        )
        await bob.act(space, "join")
        assert (await carol.act(room_id, "join")).errcode == "M_FORBIDDEN"
        assert (await bob.act(room_id, "join")).status == 200
        content = await persister.content(room_id, "m.room.member", bob.user_id)
        assert content["join_authorised_via_users_server"] == alice.user_id
        # No member with invite power is left to authorise a join.
        await alice.put_state(room_id, "m.room.power_levels", {"invite": 50})
        await alice.act(room_id, "leave")
        await carol.act(space, "join")
        assert (await carol.act(room_id, "join")).errcode == "M_FORBIDDEN"


async def test_knock_needs_the_join_rule_and_an_invite(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        knock = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        room_id = await alice.create_room(initial_state=knock)
        closed = await alice.create_room()
        old = await alice.create_room(room_version="6")
        assert (await bob.call("POST", f"/knock/{closed}", {})).errcode == "M_FORBIDDEN"
        assert (await bob.call("POST", f"/knock/{old}", {})).errcode == "M_FORBIDDEN"
        assert (await bob.call("POST", "/knock/!nowhere:example.org", {})).status == 404
        answer = await bob.call("POST", f"/knock/{room_id}", {"reason": "please"})
        assert answer.json == {"room_id": room_id}
        content = await persister.content(room_id, "m.room.member", bob.user_id)
        assert content == {"membership": "knock", "reason": "please"}
        assert (await bob.act(room_id, "join")).status == 403
        assert (await alice.act(room_id, "invite", {"user_id": bob.user_id})).status == 200
        assert (await bob.act(room_id, "join")).status == 200
        assert (await bob.call("POST", f"/knock/{room_id}", {})).status == 403


async def test_join_by_alias_reaches_the_owner(postgres_module: TestDatabase) -> None:
    dsn = postgres_module.dsn
    async with (
        event_persister(dsn, takes=lambda slot: slot % 2 == 0) as even,
        event_persister(dsn, takes=lambda slot: slot % 2 == 1) as odd,
    ):
        even.router.other, odd.router.other = odd, even
        rooms = {}
        for persister, name in ((even, "even"), (odd, "odd")):
            for version in ("10", "12"):
                alias = f"{name}{version}"
                rooms[alias] = await persister.user("alice").create_room(
                    preset="public_chat", room_alias_name=alias, room_version=version
                )
        for asked in (even, odd):
            bob = asked.user(f"bob{asked.foundation.lease}")
            for alias, room_id in rooms.items():
                answer = await bob.call("POST", f"/join/%23{alias}:{SERVER}", {})
                assert answer.json == {"room_id": room_id}
                assert (await bob.send(room_id, "hello")).status == 200
        assert (await bob.call("POST", "/join/%23nothing:example.org", {})).errcode == "M_NOT_FOUND"
        assert (await bob.call("POST", "/join/%23a:elsewhere.org", {})).errcode == "M_NOT_FOUND"
        assert (await bob.call("POST", "/join/nonsense", {})).errcode == "M_INVALID_PARAM"
        assert (await bob.call("POST", "/join/!nowhere:example.org", {})).status == 404


async def test_refused_invites(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("unwilling")
        room_id = await alice.create_room()
        block = orjson.dumps({"default_action": "block"})
        await persister.sql(
            "INSERT INTO account_data VALUES ($1, '', 'm.invite_permission_config', $2, 1, 1)",
            bob.user_id,
            block,
        )
        for answer in (
            await alice.act(room_id, "invite", {"user_id": bob.user_id}),
            await alice.put_state(room_id, "m.room.member", {"membership": "invite"}, bob.user_id),
            await alice.call("POST", "/createRoom", {"invite": [bob.user_id]}),
        ):
            assert (answer.status, answer.errcode) == (403, "M_INVITE_BLOCKED")
        assert (await alice.act(room_id, "invite", {"user_id": "@a:elsewhere.org"})).status == 502
        assert (await alice.act(room_id, "invite", {"user_id": "nobody"})).errcode == "M_INVALID_PARAM"
        assert (await alice.act(room_id, "invite", {})).errcode == "M_MISSING_PARAM"
        assert (await alice.act(room_id, "invite", {"user_id": 3})).errcode == "M_BAD_JSON"
        by_mail = {"id_server": "id.example.org", "id_access_token": "t", "medium": "email", "address": "a@b.c"}
        assert (await alice.act(room_id, "invite", by_mail)).errcode == "M_SERVER_NOT_TRUSTED"
        assert (await alice.call("POST", "/createRoom", {"invite_3pid": [by_mail]})).errcode == "M_SERVER_NOT_TRUSTED"


async def test_join_keeps_custom_keys_of_the_request(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        kept = {"reason": "hi", "org.example.bridge": {"a": 1}, "displayname": "Bob the bridge"}
        body = {**kept, "membership": "ban", "join_authorised_via_users_server": alice.user_id}
        assert (await bob.act(room_id, "join", body)).status == 200
        assert await persister.content(room_id, "m.room.member", bob.user_id) == {"membership": "join", **kept}


async def test_resent_member_event_drops_the_authorising_user(postgres_module: TestDatabase) -> None:
    """Clients change a display name by resending their member event, including the key of a restricted join."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        space = await alice.create_room(preset="public_chat")
        await bob.act(space, "join")
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
        room_id = await alice.create_room(
            initial_state=[{"type": "m.room.join_rules", "content": rule}], power_level_content_override={"invite": 0}
        )
        assert (await bob.act(room_id, "join")).status == 200
        joined = await persister.content(room_id, "m.room.member", bob.user_id)
        assert joined is not None and joined["join_authorised_via_users_server"] == alice.user_id
        renamed = {**joined, "displayname": "Robert"}
        assert (await bob.put_state(room_id, "m.room.member", renamed, bob.user_id)).status == 200
        assert await persister.content(room_id, "m.room.member", bob.user_id) == {
            "membership": "join",
            "displayname": "Robert",
        }


async def test_creator_of_a_successor_room_gets_settings_copied(postgres_module: TestDatabase) -> None:
    """A client that upgrades a room itself creates the new one with a `predecessor`. The persister records it."""
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        old = await alice.create_room()
        new = await alice.create_room(creation_content={"predecessor": {"room_id": old, "event_id": "$x"}})
        rows = await persister.sql("SELECT user_id, old_room_id, new_room_id FROM settings_to_copy")
        assert (alice.user_id, old, new) in {tuple(row) for row in rows}
