"""Receipts, read markers and typing."""

import asyncio

from replication.streams import RECEIPTS, TYPING
from shared.core.identifiers import EventId, RoomId, UserId
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, client_api
from tests.workers.client_api.rooms import put_room

_ROOM = RoomId("!room:example.org")
_OTHER = RoomId("!other:example.org")


async def _room_with_thread(worker: ClientApi, member: UserId) -> None:
    room = await put_room(worker, _ROOM, {member: "join", UserId("@gone:example.org"): "leave"})
    other = await put_room(worker, _OTHER, {member: "join"})
    await other.put_event(EventId("$elsewhere"), 10, {})
    await room.put_event(EventId("$root"), 10, {})
    in_thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}}
    await room.put_event(EventId("$reply"), 11, in_thread)
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$reply", "key": "+"}}
    await room.put_event(EventId("$reaction"), 12, reaction, "m.reaction")
    await room.put_event(EventId("$last"), 13, {})
    await room.put_event(EventId("$old"), None, {}, anchor=12)
    await room.put_event(EventId("$rejected"), None, {}, status=2)


async def test_receipts_only_move_forward(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await _room_with_thread(worker, alice.user_id)
        base = f"/rooms/{_ROOM}/receipt"
        assert (await alice.call("POST", f"{base}/m.read/%24reply", {})).json == {}
        assert (await alice.call("POST", f"{base}/m.read/%24last", raw=b"")).json == {}
        # A receipt behind the present one, or equal to it, changes nothing and is not announced.
        assert (await alice.call("POST", f"{base}/m.read/%24reply", {})).status == 200
        assert (await alice.call("POST", f"{base}/m.read/%24last", {})).status == 200
        assert (await alice.call("POST", f"{base}/m.read.private/%24old", {})).status == 200
        assert (await alice.call("POST", f"{base}/m.read/%24last", {"thread_id": "main"})).status == 200
        assert (await alice.call("POST", f"{base}/m.read/%24reaction", {"thread_id": "$root"})).status == 200
        rows = worker.bus.rows(RECEIPTS)
        assert [(r.kind, r.thread_id, r.event_id, r.ordinal) for r in rows] == [
            ("m.read", "", "$reply", 11),
            ("m.read", "", "$last", 13),
            ("m.read.private", "", "$old", 11),  # as if for the live event before it
            ("m.read", "main", "$last", 13),
            ("m.read", "$root", "$reaction", 12),
        ]
        stored = await worker.sql("SELECT event_id FROM receipts WHERE kind = 'm.read' AND thread_id = ''")
        assert [row["event_id"] for row in stored] == ["$last"]

        for path, body, status, errcode in (
            ("m.read/%24nowhere", {}, 404, "M_NOT_FOUND"),
            ("m.read/%24elsewhere", {}, 404, "M_NOT_FOUND"),
            ("m.read/%24rejected", {}, 404, "M_NOT_FOUND"),
            ("m.read/nonsense", {}, 400, "M_INVALID_PARAM"),
            ("m.read/%24a%00", {}, 400, "M_INVALID_PARAM"),
            ("m.seen/%24last", {}, 400, "M_INVALID_PARAM"),
            ("m.read/%24last", {"thread_id": ""}, 400, "M_INVALID_PARAM"),
            ("m.read/%24last", {"thread_id": 7}, 400, "M_INVALID_PARAM"),
            ("m.read/%24last", {"thread_id": "$root"}, 400, "M_INVALID_PARAM"),
            ("m.read/%24reply", {"thread_id": "main"}, 400, "M_INVALID_PARAM"),
            ("m.fully_read/%24last", {"thread_id": "main"}, 400, "M_INVALID_PARAM"),
            ("m.read/%24last", [], 400, "M_BAD_JSON"),
        ):
            answer = await alice.call("POST", f"{base}/{path}", body)
            assert (answer.status, answer.errcode) == (status, errcode), path
        assert (await bob.call("POST", f"{base}/m.read/%24last", {})).errcode == "M_FORBIDDEN"
        unknown = await alice.call("POST", "/rooms/!no:example.org/receipt/m.read/%24last", {})
        assert unknown.errcode == "M_FORBIDDEN"


async def test_receipt_for_an_invisible_event_is_refused(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        room = await put_room(worker, _ROOM, {alice.user_id: "join"}, history_visibility="shared")
        states: tuple[tuple[int, str, str, dict[str, str]], ...] = (
            (3, "m.room.history_visibility", "", {"history_visibility": "shared"}),
            (10, "m.room.history_visibility", "", {"history_visibility": "invited"}),
            (12, "m.room.member", alice.user_id, {"membership": "invite"}),
            (14, "m.room.member", alice.user_id, {"membership": "join"}),
            (16, "m.room.member", alice.user_id, {"membership": "join", "displayname": "A"}),
        )
        for ordinal, kind, key, content in states[1:]:
            await room.put_event(EventId(f"$s{ordinal}"), ordinal, content, kind, key)
        for ordinal, kind, key, _ in states:
            await worker.sql(
                "INSERT INTO state_changes SELECT $1, $2, $3, $4, event_nid, NULL, 1, 1 FROM events"
                " WHERE room_nid = $1 AND ordinal = $4",
                room.nid,
                kind,
                key,
                ordinal,
            )
        await worker.sql("UPDATE memberships SET ordinal = 16 WHERE room_nid = $1", room.nid)
        await room.put_event(EventId("$gap"), None, {}, anchor=11)
        for ordinal in (9, 11, 13, 15, 17):
            await room.put_event(EventId(f"$m{ordinal}"), ordinal, {})
        base = f"/rooms/{_ROOM}/receipt/m.read"
        statuses = {}
        for event in ("m9", "s10", "gap", "m11", "s12", "m13", "s14", "m15", "s16", "m17"):
            statuses[event] = (await alice.call("POST", f"{base}/%24{event}", {})).status
        hidden = {"gap", "m11"}
        assert statuses == {event: 404 if event in hidden else 200 for event in statuses}
        markers = {"m.read.private": "$m17", "m.fully_read": "$m11"}
        answer = await alice.call("POST", f"/rooms/{_ROOM}/read_markers", markers)
        assert answer.errcode == "M_NOT_FOUND"
        assert await worker.sql("SELECT 1 FROM receipts WHERE kind = 'm.read.private'") == []


async def test_fully_read_marker_only_moves_forward(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await _room_with_thread(worker, alice.user_id)
        path = f"/rooms/{_ROOM}/read_markers"
        marker = f"/user/{alice.quoted}/rooms/{_ROOM}/account_data/m.fully_read"
        body = {"m.fully_read": "$reply", "m.read": "$last", "m.read.private": "$last"}
        assert (await alice.call("POST", path, body)).json == {}
        assert (await alice.call("GET", marker)).json == {"event_id": "$reply"}
        assert len(await worker.sql("SELECT 1 FROM receipts")) == 2
        await alice.call("POST", path, {"m.fully_read": "$root"})  # late, from another device
        assert (await alice.call("GET", marker)).json == {"event_id": "$reply"}
        await alice.call("POST", f"/rooms/{_ROOM}/receipt/m.fully_read/%24last", {})
        assert (await alice.call("GET", marker)).json == {"event_id": "$last"}
        assert (await alice.call("POST", path, {})).status == 200
        assert (await alice.call("POST", path, {"m.read": "$nowhere"})).status == 404
        assert (await alice.call("POST", path, {"m.read": 1})).errcode == "M_BAD_JSON"


async def test_typing_ends_after_its_timeout(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await _room_with_thread(worker, alice.user_id)
        path = f"/rooms/{_ROOM}/typing/{alice.quoted}"

        async def set_typing(body: object) -> tuple[int, str]:
            answer = await alice.call("PUT", path, body)
            return answer.status, answer.errcode

        assert await set_typing({"typing": False}) == (200, "")
        # Alice may have been typing when another process owned the slot, so this one announces the end.
        assert [row.until_ms for row in worker.bus.rows(TYPING)] == [0]
        assert await set_typing({"typing": True, "timeout": 50}) == (200, "")
        assert await set_typing({"typing": True, "timeout": 100}) == (200, "")
        await asyncio.sleep(0.2)
        rows = worker.bus.rows(TYPING)
        assert [row.until_ms > 0 for row in rows] == [False, True, True, False]
        assert [row.position for row in rows] == [1, 2, 3, 4]
        assert await set_typing({"typing": True, "timeout": 10**15}) == (200, "")
        newest = worker.bus.rows(TYPING)[-1]
        assert newest.until_ms <= worker.clock.now_ms() + 120_000
        assert await set_typing({"typing": False}) == (200, "")
        assert worker.bus.rows(TYPING)[-1].until_ms == 0
        bodies: tuple[object, ...] = ({}, {"typing": "yes"}, {"typing": True, "timeout": "long"}, [])
        for body in bodies:
            assert await set_typing(body) == (400, "M_BAD_JSON")
        assert (await bob.call("PUT", path, {"typing": True})).errcode == "M_FORBIDDEN"
        outside = f"/rooms/{_ROOM}/typing/{bob.quoted}"
        assert (await bob.call("PUT", outside, {"typing": True})).errcode == "M_FORBIDDEN"
