"""Account data, tags and filters."""

import asyncio

from replication.streams import ACCOUNT_DATA
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api

_ROOM = "!room:example.org"


async def test_account_data_is_stored_by_type_and_room(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for base in (
            f"/user/{alice.quoted}/account_data",
            f"/user/{alice.quoted}/rooms/{_ROOM}/account_data",
        ):
            missing = await alice.call("GET", f"{base}/org.example.a")
            assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
            for content in ({"a": 1}, {"a": "nul \x00", "b": [1.5, None]}, {}):
                assert (await alice.call("PUT", f"{base}/org.example.a%00", content)).json == {}
                assert (await alice.call("GET", f"{base}/org.example.a%00")).json == content
            for managed in ("m.fully_read", "m.push_rules"):
                refused = await alice.call("PUT", f"{base}/{managed}", {})
                assert (refused.status, refused.errcode) == (405, "M_BAD_JSON")
            assert (await bob.call("PUT", f"{base}/x", {})).errcode == "M_FORBIDDEN"
            assert (await bob.call("GET", f"{base}/x")).errcode == "M_FORBIDDEN"
            assert (await alice.call("PUT", f"{base}/x", [])).errcode == "M_BAD_JSON"
            assert (await alice.call("PUT", f"{base}/x", raw=b"")).errcode == "M_NOT_JSON"
            assert (await alice.call("PUT", f"{base}/{'x' * 300}", {})).errcode == "M_INVALID_PARAM"
        rules = await alice.call("GET", f"/user/{alice.quoted}/account_data/m.push_rules")
        assert rules.json["global"]["override"][0]["rule_id"] == ".m.rule.master"
        bad_room = await alice.call("PUT", f"/user/{alice.quoted}/rooms/nonsense/account_data/x", {})
        assert bad_room.errcode == "M_INVALID_PARAM"
        rows = worker.bus.rows(ACCOUNT_DATA)
        assert len(rows) == 6
        assert rows == sorted(rows, key=lambda row: row.position)
        assert rows[0].type == "org.example.a\x00"
        stored = await worker.sql("SELECT position FROM account_data ORDER BY position")
        assert [row["position"] for row in stored] == [rows[2].position, rows[5].position]


async def test_concurrent_tags_are_all_kept(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        base = f"/user/{alice.quoted}/rooms/{_ROOM}/tags"
        assert (await alice.call("GET", base)).json == {"tags": {}}
        names = [f"u.tag{n}" for n in range(4)]
        await asyncio.gather(*(alice.call("PUT", f"{base}/{name}", {"order": 0.5}) for name in names))
        assert set((await alice.call("GET", base)).json["tags"]) == set(names)
        assert (await alice.call("DELETE", f"{base}/{names[0]}")).json == {}
        before = len(worker.bus.rows(ACCOUNT_DATA))
        assert (await alice.call("DELETE", f"{base}/{names[0]}")).json == {}
        assert len(worker.bus.rows(ACCOUNT_DATA)) == before, "nothing changed"
        assert set((await alice.call("GET", base)).json["tags"]) == set(names[1:])
        shown = await alice.call("GET", f"/user/{alice.quoted}/rooms/{_ROOM}/account_data/m.tag")
        assert shown.json["tags"]["u.tag1"] == {"order": 0.5}
        orders: tuple[object, ...] = ("first", True, {})
        for order in orders:
            assert (await alice.call("PUT", f"{base}/x", {"order": order})).errcode == "M_BAD_JSON"
        assert (await alice.call("PUT", f"{base}/{'x' * 256}", {})).errcode == "M_INVALID_PARAM"
        assert (await alice.call("PUT", f"{base}/u.%00%1a", {})).status == 200
        assert "u.\x00\x1a" in (await alice.call("GET", base)).json["tags"]
        assert (await bob.call("PUT", f"{base}/x", {})).errcode == "M_FORBIDDEN"
        # The account data endpoint accepts tags of any shape.
        await alice.call("PUT", f"/user/{alice.quoted}/rooms/{_ROOM}/account_data/m.tag", {"tags": 7})
        assert (await alice.call("GET", base)).json == {"tags": {}}


async def test_equal_filters_share_one_id(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        base = f"/user/{alice.quoted}/filter"
        wanted = {"room": {"timeline": {"limit": 7}}, "event_fields": ["type", "content"]}
        ids = [(await alice.call("POST", base, wanted)).json["filter_id"] for _ in range(2)]
        assert ids[0] == ids[1]
        assert not ids[0].startswith("{")
        assert (await alice.call("GET", f"{base}/{ids[0]}")).json == wanted
        many = await asyncio.gather(
            *(alice.call("POST", base, {"room": {"timeline": {"limit": n}}}) for n in range(1, 9))
        )
        assert len({answer.json["filter_id"] for answer in many}) == 8
        for unknown in ("9999", "x", "-1", "9" * 30, "%00"):
            assert (await alice.call("GET", f"{base}/{unknown}")).status == 404, unknown
        bad_filters: tuple[object, ...] = (
            {"room": []},
            {"room": {"timeline": {"limit": "x"}}},
            {"event_format": "odd"},
        )
        for bad in bad_filters:
            assert (await alice.call("POST", base, bad)).errcode == "M_BAD_JSON"
        assert (await bob.call("POST", base, {})).errcode == "M_FORBIDDEN"
        assert (await bob.call("GET", f"{base}/{ids[0]}")).errcode == "M_FORBIDDEN"
