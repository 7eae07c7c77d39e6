"""Reports, and the rooms that two users share."""

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from tests.workers.client_api.rooms import put_room

_ROOM = RoomId("!room:example.org")


async def test_reports_are_stored_and_reveal_nothing(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, eve = [await worker.register(name) for name in ("alice", "eve")]
        room = await put_room(worker, _ROOM, {alice.user_id: "join", eve.user_id: "leave"})
        [row] = await worker.sql("SELECT event_id FROM events WHERE room_nid = $1 LIMIT 1", room.nid)
        event = f"/rooms/{_ROOM}/report/{row['event_id']}"
        assert (await alice.call("POST", event, {"reason": "a\x00b" + "x" * 5000, "score": -1})).json == {}
        assert (await alice.call("POST", event)).json == {}
        assert (await eve.call("POST", f"/rooms/{_ROOM}/report", {"reason": ""})).json == {}
        assert (await eve.call("POST", f"/users/{alice.user_id}/report", {"reason": "why"})).json == {}
        # Reports do not reveal which rooms and users exist.
        for path in ("/rooms/!none:example.org/report", "/users/@none:example.org/report", "/users/x/report"):
            assert (await eve.call("POST", path, {"reason": ""})).json == {}
        for user, path, body, errcode in (
            (eve, event, {}, "M_NOT_FOUND"),
            (alice, f"/rooms/{_ROOM}/report/$none", {}, "M_NOT_FOUND"),
            (alice, f"/rooms/{_ROOM}/report/%00", {}, "M_NOT_FOUND"),
            (alice, event, {"reason": 1}, "M_BAD_JSON"),
            (alice, f"/rooms/{_ROOM}/report", {}, "M_BAD_JSON"),
            (alice, f"/users/{eve.user_id}/report", {}, "M_BAD_JSON"),
        ):
            assert (await user.call("POST", path, body)).errcode == errcode, path
        rows = await worker.sql("SELECT * FROM reports ORDER BY report")
        stored = [(r["reporter"], r["about_room"], r["event_id"], r["about_user"]) for r in rows]
        assert stored == [
            (alice.user_id, _ROOM, row["event_id"], None),
            (alice.user_id, _ROOM, row["event_id"], None),
            (eve.user_id, _ROOM, None, None),
            (eve.user_id, None, None, alice.user_id),
        ]
        assert rows[0]["reason"].startswith("a\x00bxx") and len(rows[0]["reason"]) == 2000


async def test_mutual_rooms_are_paged(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = [await worker.register(name) for name in ("alice", "bob")]
        await worker.sql(
            """
            INSERT INTO rooms (room_nid, room_id, room_version, creator, created_ms)
              SELECT n, '!' || n || ':example.org', '10', '@a:b', 0 FROM generate_series(1, 130) n
            """
        )
        # Bob left every tenth room.
        await worker.sql(
            """
            INSERT INTO memberships (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position,
                                     is_local)
              SELECT n, u, CASE WHEN u = $2 AND n % 10 = 0 THEN 'leave' ELSE 'join' END, 1, u, 1, 1, 1, true
              FROM generate_series(1, 130) n, unnest(ARRAY[$1, $2]) u
            """,
            alice.user_id,
            bob.user_id,
        )
        path = "/_matrix/client/v1/mutual_rooms"
        first = (await alice.call("GET", path, query=f"user_id={bob.user_id}")).json
        second = (await alice.call("GET", path, query=f"user_id={bob.user_id}&from={first['next_batch']}")).json
        assert first["joined"] + second["joined"] == [f"!{n}:example.org" for n in range(1, 131) if n % 10]
        assert first["count"] == second["count"] == 117 and "next_batch" not in second
        nobody = await alice.call("GET", path, query="user_id=@nobody:example.org")
        assert nobody.json == {"joined": [], "count": 0}
        for wrong in ("x", alice.user_id, bob.user_id + "&from=x"):
            assert (await alice.call("GET", path, query=f"user_id={wrong}")).errcode == "M_INVALID_PARAM"
        assert (await alice.call("GET", path)).errcode == "M_MISSING_PARAM"
