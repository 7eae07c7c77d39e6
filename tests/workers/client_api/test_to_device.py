"""PUT /sendToDevice: one message per device and transaction, in order."""

import asyncio
from typing import Any

from replication.streams import TO_DEVICE
from shared.core.identifiers import UserId
from shared.storage.fleet.leases import fence
from shared.storage.streams.ends import get_stored_positions
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api


async def _send(user: User, txn: str, messages: Any, kind: str = "m.x") -> Any:
    return await user.call("PUT", f"/sendToDevice/{kind}/{txn}", {"messages": messages})


async def _inbox(worker: ClientApi, user_id: UserId) -> list[tuple[str, str]]:
    rows = await worker.sql(
        "SELECT device_id, convert_from(content, 'UTF8') AS content FROM to_device_messages WHERE user_id = $1"
        " ORDER BY position",
        user_id,
    )
    return [(row["device_id"], row["content"]) for row in rows]


async def test_each_device_gets_a_message_once(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob", device_id="B1")
        await worker.log_in("bob", "B2")
        sent = await _send(
            alice,
            "1",
            {
                bob.user_id: {"*": {"to": "all"}, "B2": {"to": "B2"}, "NONE": {}},
                "@far:away.example": {"*": {}},
                "@nobody:example.org": {"*": {}},
            },
        )
        assert (sent.status, sent.json) == (200, {})
        assert await _inbox(worker, bob.user_id) == [("B1", '{"to":"all"}'), ("B2", '{"to":"B2"}')]
        rows = worker.bus.rows(TO_DEVICE)
        assert [(row.user_id, row.device_id, row.prior_writer) for row in rows] == [
            (bob.user_id, "B1", None),
            (bob.user_id, "B2", None),
        ]
        assert rows == sorted(rows, key=lambda row: row.position)
        # A repeated transaction sends nothing, also when it is repeated concurrently.
        again = await asyncio.gather(*(_send(alice, "1", {bob.user_id: {"*": {}}}) for _ in range(3)))
        assert all(answer.json == {} for answer in again)
        twice = await asyncio.gather(*(_send(alice, "2", {bob.user_id: {"B1": {}}}) for _ in range(4)))
        assert all(answer.status == 200 for answer in twice)
        assert len(await _inbox(worker, bob.user_id)) == 3
        # The same id with another type, or from another device, is another transaction.
        await _send(alice, "1", {bob.user_id: {"B1": {}}}, kind="m.y")
        second = await worker.log_in("alice", "A2")
        await _send(second, "1", {bob.user_id: {"B1": {}}})
        assert len(await _inbox(worker, bob.user_id)) == 5


async def test_retry_at_another_process_stores_no_second_message(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker, client_api(postgres.dsn, name="client_api-2") as other:
        alice = await worker.register("alice")
        alice_elsewhere = User(other, alice.user_id, alice.token, alice.device_id)
        own = {alice.user_id: {alice.device_id: {"n": 1}}}
        answers = await asyncio.gather(_send(alice, "1", own), _send(alice_elsewhere, "1", own))
        assert [answer.status for answer in answers] == [200, 200]
        assert len(await _inbox(worker, alice.user_id)) == 1
        assert (await _send(alice_elsewhere, "2", own)).status == 200
        assert (await _send(alice, "3", own)).status == 200
        rows = {row.position: row for each in (worker, other) for row in each.bus.rows(TO_DEVICE)}
        ordered = [rows[position] for position in sorted(rows)]
        assert len(ordered) == 3
        assert (ordered[2].prior_writer, ordered[2].prior_position) == (ordered[1].writer, ordered[1].position)
        if ordered[0].writer != ordered[1].writer:
            assert ordered[1].prior_position == ordered[0].position


async def test_transaction_id_ends_with_its_device(postgres: TestDatabase) -> None:
    """A log-in after a log-out creates a new device, even with the same id. A log-in to a live device continues it."""
    async with client_api(postgres.dsn) as worker:
        _, bob = await worker.register("alice"), await worker.register("bob")
        to_bob: dict[str, Any] = {bob.user_id: {"*": {}}}

        for count in (1, 2):
            tablet = await worker.log_in("alice", "TABLET")
            assert (await _send(tablet, "t1", to_bob)).status == 200
            assert len(await _inbox(worker, bob.user_id)) == count
            tablet = await worker.log_in("alice", "TABLET")
            assert (await _send(tablet, "t1", to_bob)).status == 200
            assert len(await _inbox(worker, bob.user_id)) == count, "the device is the same, its token is new"
            worker.clock.advance(1)
            assert (await tablet.call("POST", "/logout")).status == 200


async def test_malformed_messages_are_refused(postgres: TestDatabase) -> None:
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
            (
                {"messages": {alice.user_id: {f"DEVICE-OF-A-LONG-NAME-{n}": {} for n in range(10_001)}}},
                "M_INVALID_PARAM",
            ),
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


async def test_new_device_gets_no_messages_of_an_earlier_device(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        # A message that was stored while the device of that id was deleted
        await worker.sql(
            "INSERT INTO to_device_messages VALUES ($1, 'OLD', 1, 1, '@x:example.org', 'm.x', '{}')", alice.user_id
        )
        await worker.log_in("alice", "OLD")
        assert await _inbox(worker, alice.user_id) == []
        await _send(bob, "1", {alice.user_id: {"OLD": {}}})
        await worker.log_in("alice", "OLD")  # the device continues, and keeps its messages
        assert len(await _inbox(worker, alice.user_id)) == 1


async def test_final_position_of_a_dead_writer_counts_deleted_messages(postgres: TestDatabase) -> None:
    """A lagging reader would otherwise wait for those messages in vain, or skip later ones."""
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await _send(bob, "1", {alice.user_id: {"*": {}}})
        await _send(alice, "1", {bob.user_id: {"*": {}}})
        last = max(row.position for row in worker.bus.rows(TO_DEVICE))
        # The log-out deletes the messages to alice's device and its sent transactions.
        assert (await alice.call("POST", "/logout", {})).status == 200
        stored = await get_stored_positions(worker.foundation.database, "to_device", 0)
        assert stored == {worker.foundation.lease: last}
        async with worker.foundation.database.connection() as conn:
            await fence(conn, worker.foundation.lease)
        [row] = await worker.sql("SELECT final_position FROM writers WHERE stream = 'to_device'")
        assert row["final_position"] == last
