"""PUT of state and messages: refusals and repeats. Redactions and their targets."""

import asyncio
import dataclasses

import orjson
import pytest
from prometheus_client import CollectorRegistry

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.signing import generate_signing_key
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.rigs.worker import SERVER
from workers.event_persister.graph.policy_signatures import ask_nobody
from workers.event_persister.room.drafts import Draft
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room_engine import compose_engine


async def test_put_state_refusals_and_repeats(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")
        first = await alice.put_state(room_id, "org.example", {"a": 1})
        assert (await alice.put_state(room_id, "org.example", {"a": 1})).body == first.body
        with_slash = await alice.call("PUT", f"/rooms/{room_id}/state/org.example/", {"a": 1})
        assert with_slash.body == first.body
        assert (await alice.put_state(room_id, "org.example", {"a": True})).event_id != first.event_id
        assert (await alice.put_state(room_id, "org.example", {"a": 1}, "key")).event_id != first.event_id
        assert (await bob.put_state(room_id, "org.example", {"a": True})).status == 403
        stranger = persister.user("stranger")
        assert (await stranger.put_state(room_id, "org.example", {"a": True})).status == 403
        assert (await alice.put_state(room_id, "m.room.create", {})).status == 400
        assert (await alice.put_state(room_id, "x", {}, bob.user_id)).status == 403
        answer = await alice.call("PUT", f"/rooms/{room_id}/state/x", raw=b"[]")
        assert answer.errcode == "M_BAD_JSON"
        assert (await alice.call("PUT", f"/rooms/{room_id}/state/x", raw=b"{")).errcode == "M_NOT_JSON"
        assert (await alice.put_state(RoomId("nonsense"), "x", {})).errcode == "M_INVALID_PARAM"
        assert (await alice.put_state(RoomId("!nowhere:example.org"), "x", {})).errcode == "M_FORBIDDEN"
        rows = await persister.sql(
            """SELECT c.ordinal, c.event_nid, c.prev_nid FROM state_changes c JOIN rooms r USING (room_nid)
               WHERE r.room_id = $1 AND c.type = 'org.example' AND c.state_key = '' ORDER BY ordinal""",
            room_id,
        )
        assert [row["prev_nid"] for row in rows] == [None, rows[0]["event_nid"]]


async def test_member_events_set_as_state(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        member = "m.room.member"
        joined = await bob.put_state(room_id, member, {"membership": "join", "displayname": "B"}, bob.user_id)
        assert joined.status == 200
        assert (await persister.content(room_id, member, bob.user_id))["displayname"] == "B"
        renamed = {"membership": "join", "displayname": "Bee", "org.example": [1]}
        assert (await bob.put_state(room_id, member, renamed, bob.user_id)).status == 200
        assert await persister.content(room_id, member, bob.user_id) == renamed
        forced = await alice.put_state(room_id, member, {"membership": "join"}, f"@c:{SERVER}")
        assert forced.status == 403
        assert (await alice.put_state(room_id, member, {"membership": "x"}, bob.user_id)).status == 400
        assert (await alice.put_state(room_id, member, {}, bob.user_id)).errcode == "M_BAD_JSON"
        assert (await alice.put_state(room_id, member, {"membership": "ban"}, "bob")).status == 400
        kicked = await alice.put_state(room_id, member, {"membership": "leave"}, bob.user_id)
        assert kicked.status == 200
        assert (await bob.send(room_id, "x")).status == 403


async def test_canonical_alias_must_point_to_the_room(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_alias_name="one")
        await alice.create_room(room_alias_name="other")
        kind = "m.room.canonical_alias"
        for content, errcode in (
            ({"alias": f"#other:{SERVER}"}, "M_BAD_ALIAS"),
            ({"alias": f"#none:{SERVER}"}, "M_BAD_ALIAS"),
            ({"alias": f"#one:{SERVER}", "alt_aliases": ["#a:elsewhere.org"]}, "M_BAD_ALIAS"),
            ({"alt_aliases": ["nonsense"]}, "M_INVALID_PARAM"),
            ({"alt_aliases": 3}, "M_BAD_JSON"),
            ({"alias": 3}, "M_BAD_JSON"),
        ):
            answer = await alice.put_state(room_id, kind, content)
            assert (answer.status, answer.errcode) == (400, errcode), content
        content = {"alias": f"#one:{SERVER}", "alt_aliases": [f"#one:{SERVER}"]}
        assert (await alice.put_state(room_id, kind, content)).status == 200
        # An alias from the current event is not checked again.
        await persister.sql("DELETE FROM room_aliases")
        assert (await alice.put_state(room_id, kind, {"alias": f"#one:{SERVER}"})).status == 200


async def test_deleted_alias_leaves_the_canonical_alias(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(room_alias_name="first", preset="public_chat")
        await bob.act(room_id, "join")
        kind, first = "m.room.canonical_alias", f"#first:{SERVER}"
        path = f"/_skep/rooms/{room_id}/canonical_alias"

        async def remove(user_id: UserId, alias: str) -> str | None:
            answer = await persister.internal("PUT", path, {"user_id": user_id, "alias": alias})
            assert answer.status == 200, answer.body
            event_id: EventId | None = answer.json["event_id"]
            return event_id

        assert await persister.content(room_id, kind) == {"alias": first}
        assert await remove(bob.user_id, first) is None, "bob may not set it"
        assert await remove(alice.user_id, "#another:x") is None
        assert await remove(alice.user_id, first) is not None
        assert await persister.content(room_id, kind) == {}
        await persister.sql(
            "INSERT INTO room_aliases (alias, room_nid, creator, created_ms) SELECT $1, room_nid, $2, 0"
            " FROM rooms WHERE room_id = $3",
            "#second:example.org",
            alice.user_id,
            room_id,
        )
        aliases = {"alias": first, "alt_aliases": [first, f"#second:{SERVER}"], "x.other": 1}
        assert (await alice.put_state(room_id, kind, aliases)).status == 200
        assert await remove(alice.user_id, first) is not None
        assert await persister.content(room_id, kind) == {"alt_aliases": [f"#second:{SERVER}"], "x.other": 1}


@pytest.mark.parametrize("version", ["5", "6", "12"])
async def test_invalid_message_contents_are_refused(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_version=version)
        path = f"/rooms/{room_id}/send/org.example/"
        strict = version != "5"
        cases = (
            (b'{"a": 1.5}', 400 if strict else 200, "M_BAD_JSON"),
            (b'{"a": 9007199254740993}', 400 if strict else 200, "M_BAD_JSON"),
            (b'{"a": NaN}', 400, "M_NOT_JSON"),
            (b'{"a": "\\ud800"}', 400, "M_NOT_JSON"),
            (b"[" * 3_000, 400, "M_BAD_JSON"),
            (b"[" * 90_000, 413, "M_TOO_LARGE"),
            (b'{"a": "' + b"x" * 66_000 + b'"}', 413, "M_TOO_LARGE"),
            (b"3", 400, "M_BAD_JSON"),
            (b"", 400, "M_NOT_JSON"),
        )
        for number, (raw, status, errcode) in enumerate(cases):
            answer = await alice.call("PUT", f"{path}{number}", raw=raw)
            assert answer.status == status, (raw[:30], answer.body)
            assert status == 200 or answer.errcode == errcode, (raw[:30], answer.body)
        long_type = await alice.call("PUT", f"/rooms/{room_id}/send/{'t' * 256}/1", {})
        assert (long_type.status, long_type.errcode) == (413, "M_TOO_LARGE")
        member = await alice.call("PUT", f"/rooms/{room_id}/send/m.room.member/1", {"membership": "join"})
        assert member.status == 403


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_redactions_apply_to_their_target(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob, carol = (persister.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.create_room(preset="public_chat", room_version=version)
        for user in (bob, carol):
            await user.act(room_id, "join")
        by_bob = (await bob.send(room_id, "oops")).event_id
        assert (await carol.redact(room_id, by_bob)).errcode == "M_FORBIDDEN"
        assert (await persister.user("x").redact(room_id, by_bob)).errcode == "M_FORBIDDEN"
        assert (await bob.redact(room_id, EventId("$nothing"))).errcode == "M_NOT_FOUND"
        assert (await bob.redact(room_id, by_bob, {"reason": 3})).errcode == "M_BAD_JSON"
        redaction = (await bob.redact(room_id, by_bob, {"reason": "typo"})).event_id
        rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
        assert rows[by_bob]["redacted_by"] == rows[redaction]["event_nid"]
        assert rows[redaction]["redacts_nid"] == rows[by_bob]["event_nid"]
        pdu = orjson.loads(rows[redaction]["json"])
        assert pdu["content"]["reason"] == "typo"
        assert (pdu["content"] if version == "12" else pdu)["redacts"] == by_bob
        announced = persister.bus.rows()[-1]
        assert announced.redacts_nid == rows[by_bob]["event_nid"]
        # A user with the power level redacts by PUT /send.
        path = f"/rooms/{room_id}/send/m.room.redaction/1"
        again = (await carol.send(room_id, "again")).event_id
        assert (await alice.call("PUT", path, {"redacts": again})).status == 200
        assert (await alice.call("PUT", path + "x", {})).errcode == "M_MISSING_PARAM"
        # Only the first redaction takes effect.
        later = (await alice.redact(room_id, by_bob)).event_id
        rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
        assert rows[by_bob]["redacted_by"] == rows[redaction]["event_nid"] != rows[later]["event_nid"]


async def test_redaction_in_the_same_batch_as_its_target(postgres_module: TestDatabase) -> None:
    """An UPDATE does not see the rows that its own statement inserts. Clients cannot cause this; federation can."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, f = persister.user("alice"), persister.foundation
        room_id = await alice.create_room()
        identity, registry = Identity(SERVER, generate_signing_key(b"k" * 32, "a_1")), CollectorRegistry()
        writer = compose_engine(dataclasses.replace(f, registry=registry), identity, ask_nobody).writer
        await writer.take_event_number()
        room = await writer.find(room_id)
        assert room is not None
        sending = asyncio.create_task(
            writer.write(
                room, [Draft(sender=alice.user_id, type="m.room.message", state_key=None, content={"body": "oops"})]
            )
        )
        await asyncio.sleep(0)
        [waiting] = room.writes
        target = room.state.pending_target(waiting.built[0].event.event_id)
        assert target is not None
        redaction = Draft(
            sender=alice.user_id,
            type="m.room.redaction",
            state_key=None,
            content={},
            redacts=target.event_id,
            target=target,
        )
        [redaction_id] = await writer.write(room, [redaction])
        [target_id] = await sending
        rows = {row["event_id"]: row for row in await persister.timeline(room_id)}
        assert rows[target_id]["redacted_by"] == rows[redaction_id]["event_nid"]
        assert registry.get_sample_value("skep_persister_statements_total") == 1


async def test_redacted_state_is_read_in_redacted_form(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        access = (await alice.put_state(room_id, "m.room.guest_access", {"guest_access": "can_join"})).event_id
        assert (await alice.redact(room_id, access)).status == 200
        guest = persister.user("guest")
        persister.tokens.guests.add(guest.user_id)
        await alice.act(room_id, "invite", {"user_id": guest.user_id})
        assert (await guest.act(room_id, "join")).errcode == "M_GUEST_ACCESS_FORBIDDEN"
        async with event_persister(postgres_module.dsn) as second:
            second.tokens.guests.add(guest.user_id)
            joined = await second.user("guest").act(room_id, "join")
            assert joined.errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_redaction_of_another_rooms_event_gets_400(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id, other = await alice.create_room(), await alice.create_room()
        event_id = (await alice.send(other, "there")).json["event_id"]
        answer = await alice.redact(room_id, event_id)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
        answer = await alice.redact(room_id, EventId("$" + "x" * 43))
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        assert (await alice.redact(other, event_id)).status == 200


async def test_post_without_transaction_id_sends_each_time(postgres_module: TestDatabase) -> None:
    """Old bots use POST. Each request sends another event."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room()
        path, content = f"/rooms/{room_id}/send/m.room.message", {"msgtype": "m.text", "body": "hum"}
        sent = {(await alice.call("POST", path, content)).json["event_id"] for _ in range(2)}
        assert len(sent) == 2
        assert len([row for row in await persister.timeline(room_id) if row["type"] == "m.room.message"]) == 2
        assert (await alice.call("POST", path, {"body": "hum"})).errcode == "M_BAD_JSON"
        assert (await bob.call("POST", path, content)).status == 403
        redaction = await alice.call("POST", f"/rooms/{room_id}/send/m.room.redaction", {"redacts": sent.pop()})
        assert redaction.status == 200
