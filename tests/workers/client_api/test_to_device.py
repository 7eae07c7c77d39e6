"""PUT /sendToDevice: one row per device, once per transaction, in order."""

import asyncio
from typing import Any

from shared.storage.fleet.leases import fence
from shared.storage.streams.ends import get_stored_positions
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api
from tests.workers.client_api.keys import announced


async def _send(user: User, txn: str, messages: Any, kind: str = "m.x") -> Any:
    return await user.call("PUT", f"/sendToDevice/{kind}/{txn}", {"messages": messages})


async def _inbox(worker: ClientApi, user_id: str) -> list[tuple[str, str]]:
    rows = await worker.sql(
        "SELECT device_id, convert_from(content, 'UTF8') AS content FROM to_device_messages WHERE user_id = $1"
        " ORDER BY position",
        user_id,
    )
    return [(row["device_id"], row["content"]) for row in rows]


async def _add_device(worker: ClientApi, user: User, device_id: str) -> User:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": "correct horse",
        "device_id": device_id,
    }
    answer = await worker.call("POST", "/login", body)
    assert answer.status == 200, answer.body
    return User(worker, user.user_id, answer.json["access_token"], device_id)


async def test_every_device_gets_one(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob", device_id="B1")
        await _add_device(worker, bob, "B2")
        sent = await _send(
            alice, "1",
            {bob.user_id: {"*": {"to": "all"}, "B2": {"to": "B2"}, "NONE": {}}, "@far:away.example": {"*": {}},
             "@nobody:example.org": {"*": {}}},
        )  # fmt: skip
        assert (sent.status, sent.json) == (200, {})
        assert await _inbox(worker, bob.user_id) == [("B1", '{"to":"all"}'), ("B2", '{"to":"B2"}')]
        rows = announced(worker, "to_device")
        assert [(row.user_id, row.device_id, row.prior_writer) for row in rows] == [
            (bob.user_id, "B1", None),
            (bob.user_id, "B2", None),
        ]
        assert rows == sorted(rows, key=lambda row: row.position)
        # Again, and many times at once: nothing more. The same id under another type, or of another device: more.
        again = await asyncio.gather(*(_send(alice, "1", {bob.user_id: {"*": {}}}) for _ in range(3)))
        assert all(answer.json == {} for answer in again)
        twice = await asyncio.gather(*(_send(alice, "2", {bob.user_id: {"B1": {}}}) for _ in range(4)))
        assert all(answer.status == 200 for answer in twice)
        assert len(await _inbox(worker, bob.user_id)) == 3
        await _send(alice, "1", {bob.user_id: {"B1": {}}}, kind="m.y")
        second = await _add_device(worker, alice, "A2")
        await _send(second, "1", {bob.user_id: {"B1": {}}})
        assert len(await _inbox(worker, bob.user_id)) == 5


async def test_a_transaction_is_known_everywhere_and_names_the_one_before(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker, client_api(postgres.dsn, name="client_api-2") as other:
        alice = await worker.register("alice")
        moved = User(other, alice.user_id, alice.token, alice.device_id)
        own = {alice.user_id: {alice.device_id: {"n": 1}}}
        answers = await asyncio.gather(_send(alice, "1", own), _send(moved, "1", own))
        assert [answer.status for answer in answers] == [200, 200]
        assert len(await _inbox(worker, alice.user_id)) == 1
        assert (await _send(moved, "2", own)).status == 200
        assert (await _send(alice, "3", own)).status == 200
        rows = {row.position: row for each in (worker, other) for row in announced(each, "to_device")}
        ordered = [rows[position] for position in sorted(rows)]
        assert len(ordered) == 3
        assert (ordered[2].prior_writer, ordered[2].prior_position) == (ordered[1].writer, ordered[1].position)
        if ordered[0].writer != ordered[1].writer:
            assert ordered[1].prior_position == ordered[0].position


async def test_a_transaction_id_ends_with_its_device(postgres: TestDatabase) -> None:
    """A log-in after a log-out begins another device, whatever its id; a log-in of a live device continues it."""
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        login = {"type": "m.login.password", "user": "alice", "password": "correct horse", "device_id": "TABLET"}
        to_bob = {bob.user_id: {"*": {}}}

        async def log_in() -> User:
            answer = (await worker.call("POST", "/login", login)).json
            return User(worker, alice.user_id, answer["access_token"], answer["device_id"])

        for count in (1, 2):
            tablet = await log_in()
            assert (await _send(tablet, "t1", to_bob)).status == 200
            assert len(await _inbox(worker, bob.user_id)) == count
            tablet = await log_in()
            assert (await _send(tablet, "t1", to_bob)).status == 200
            assert len(await _inbox(worker, bob.user_id)) == count, "the device goes on, with another token"
            worker.clock.advance(1)
            assert (await tablet.call("POST", "/logout")).status == 200


async def test_hostile_messages(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        hostile: list[tuple[Any, str]] = [
            ([], "M_BAD_JSON"),
            ({}, "M_BAD_JSON"),
            ({"messages": {alice.user_id: []}}, "M_BAD_JSON"),
            ({"messages": {alice.user_id: {"D": "text"}}}, "M_BAD_JSON"),
            ({"messages": {"nobody": {"D": {}}}}, "M_INVALID_PARAM"),
            ({"messages": {"@a\x00:b": {"D": {}}}}, "M_INVALID_PARAM"),
            ({"messages": {alice.user_id: {"D": {"x": "y" * 70_000}}}}, "M_INVALID_PARAM"),
            ({"messages": {alice.user_id: {str(n): {} for n in range(10_001)}}}, "M_INVALID_PARAM"),
        ]
        for body, errcode in hostile:
            answer = await alice.call("PUT", "/sendToDevice/m.x/1", body)
            assert (answer.status, answer.errcode) == (400, errcode)
        long = await _send(alice, "1", {}, kind="x" * 256)
        assert long.errcode == "M_INVALID_PARAM"
        odd = await _send(alice, "%00", {alice.user_id: {alice.device_id: {"nul": "\x00"}, "\x00": {}}}, kind="m%00%1a")
        assert odd.status == 200
        assert len(await _inbox(worker, alice.user_id)) == 1
        assert (await _send(alice, "2", {})).json == {}


async def test_a_new_device_gets_nothing_of_a_former_one(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        # A message that was on its way when the device of that name went.
        await worker.sql(
            "INSERT INTO to_device_messages VALUES ($1, 'OLD', 1, 1, '@x:example.org', 'm.x', '{}')", alice.user_id
        )
        await _add_device(worker, alice, "OLD")
        assert await _inbox(worker, alice.user_id) == []
        await _send(bob, "1", {alice.user_id: {"OLD": {}}})
        await _add_device(worker, alice, "OLD")  # logs in anew: the device stays, and what it was sent
        assert len(await _inbox(worker, alice.user_id)) == 1


async def test_a_dead_writer_ended_at_its_last_message(postgres: TestDatabase) -> None:
    """Whatever of it is gone: who lags would wait for it in vain, or pass over it."""
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await _send(bob, "1", {alice.user_id: {"*": {}}})
        await _send(alice, "1", {bob.user_id: {"*": {}}})
        last = max(row.position for row in announced(worker, "to_device"))
        assert (await alice.call("POST", "/logout", {})).status == 200  # takes along what is known of her sending
        stored = await get_stored_positions(worker.foundation.database, "to_device", 0)
        assert stored == {worker.foundation.lease: last}
        async with worker.foundation.database.connection() as conn:
            await fence(conn, worker.foundation.lease)
        [row] = await worker.sql("SELECT final_position FROM writers WHERE stream = 'to_device'")
        assert row["final_position"] == last
