"""Synchrotrons in memory: real PostgreSQL, real followers, event persisters beside them, a bus that can hold back.

async with fleet(dsn, synchrotrons=2) as world:
    alice = world.user("alice")
    room_id = await alice.writes.create_room()
    answer = await alice.sync()
"""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from prometheus_client import CollectorRegistry

from replication.process.foundation import Foundation
from replication.streams import ACCOUNT_DATA, EVENTS, PUSH_RULES, RECEIPTS, TYPING
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.follower import Follower
from shared.config.sections import Caches, Replication
from shared.core.rows import AccountDataRow, PushRulesRow, ReceiptRow, TypingRow
from shared.core.sync_tokens.vector import Vector
from shared.http.process_pages import ProcessPages
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from shared.metrics.replication import ReplicationMetrics
from shared.runtime.clock import SystemClock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import insert_lease
from shared.storage.push.rules import get_push_rules
from tests.workers.event_persister.rig import (
    SECRET,
    Answer,
    NoLimits,
    Persister,
    Tokens,
    User,
    event_persister,
    make_config,
)
from workers.synchrotron.compose import compose
from workers.synchrotron.endpoints import ENDPOINTS, POOLS

_numbers = itertools.count(1)


class Bus:
    """Delivers at once what is published; while `holding`, messages wait, and `drop_held` loses them."""

    connected = True

    def __init__(self) -> None:
        self.holding = False
        self._held: list[tuple[str, bytes]] = []
        self._subscribers: list[tuple[set[str], Callable[[str, bytes], None]]] = []

    def publish(self, channel: str, message: bytes) -> None:
        if self.holding:
            self._held.append((channel, message))
            return
        for channels, on_message in self._subscribers:
            if channel in channels:
                on_message(channel, message)

    def subscribe(
        self, channels: Sequence[str], on_message: Callable[[str, bytes], None], on_up: Callable[[], None]
    ) -> None:
        self._subscribers.append((set(channels), on_message))

    def release(self) -> None:
        self.holding = False
        held, self._held = self._held, []
        for channel, message in held:
            self.publish(channel, message)

    def drop_held(self) -> None:
        self.holding = False
        self._held = []

    async def close(self) -> None:
        """Nothing to close."""


class ServesAll:
    async def route(self, request: Any) -> None:
        return None

    def served(self, request: Any) -> None:
        """Nobody counts."""


class NobodyLogsOut:
    def hold(self, requester: Any) -> nullcontext[None]:
        return nullcontext()


class NobodyOwns:
    """Of the slot table: there are no owners of users to report to."""

    def address(self, kind: str, slot: int) -> str | None:
        return None


@dataclass(slots=True)
class Synchrotron:
    application: Application
    foundation: Foundation

    async def get(self, path: str, query: Mapping[str, Any], token: str) -> Answer:
        return await self.call("GET", path, query, token)

    async def call(self, method: str, path: str, query: Mapping[str, Any], token: str, body: bytes = b"") -> Answer:
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "method": method, "raw_path": path.encode(),
            "query_string": urlencode({key: _text(value) for key, value in query.items()}).encode(),
            "headers": [(b"authorization", b"Bearer " + token.encode())], "client": ("127.0.0.1", 1),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, receive, send)
        return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))

    def metric(self, name: str) -> float:
        return self.foundation.registry.get_sample_value(name) or 0.0


@dataclass(slots=True)
class World:
    persisters: Sequence[Persister]
    synchrotrons: Sequence[Synchrotron]
    bus: Bus
    database: Database
    announcer: Announcer
    writer: FencedWriter

    def user(self, name: str, device: str = "DEVICE") -> "Client":
        return Client(self, self.persisters[0].user(name, device))

    async def settle(self) -> None:
        """Wait until every synchrotron has applied all events that are stored."""
        rows = await self.database.fetch("SELECT writer, max(position) AS last FROM events GROUP BY writer")
        positions = {row["writer"]: row["last"] for row in rows}
        for process in self.synchrotrons:
            wanted = Vector(max(positions, default=0), 0, positions)
            assert await process.foundation.follower.wait_for(EVENTS, wanted, 10.0)

    async def set_receipt(
        self, room_id: str, user_id: str, event_id: str, kind: str = "m.read", thread_id: str = ""
    ) -> None:
        row = await self.database.fetchrow(
            """
            INSERT INTO receipts
            SELECT e.room_nid, $3, $4, $5, e.event_id, e.ordinal, 1000, $6, nextval('stream_receipts')
            FROM events e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 AND e.event_id = $2
            ON CONFLICT (room_nid, user_id, kind, thread_id) DO UPDATE
            SET event_id = excluded.event_id, ordinal = excluded.ordinal, position = excluded.position,
                writer = excluded.writer
            RETURNING position, room_nid, ordinal
            """,
            room_id, event_id, user_id, kind, thread_id, self.announcer.lease,
        )  # fmt: skip
        assert row is not None
        self.announcer.announce(
            RECEIPTS,
            [
                ReceiptRow(
                    position=row["position"],
                    writer=self.announcer.lease,
                    room_nid=row["room_nid"],
                    room_id=room_id,
                    user_id=user_id,
                    kind=kind,
                    thread_id=thread_id,
                    event_id=event_id,
                    ordinal=row["ordinal"],
                    ts_ms=1000,
                )
            ],
        )

    async def set_account_data(self, user_id: str, room_id: str, event_type: str, content: Any) -> None:
        json = None if content is None else orjson.dumps(content)
        position = await self.database.fetchval(
            """
            INSERT INTO account_data VALUES ($1, $2, $3, $4, $5, nextval('stream_account_data'))
            ON CONFLICT (user_id, room_id, type) DO UPDATE
            SET json = excluded.json, position = excluded.position, writer = excluded.writer
            RETURNING position
            """,
            user_id, room_id, event_type, json, self.announcer.lease,
        )  # fmt: skip
        row = AccountDataRow(
            position=position, writer=self.announcer.lease, user_id=user_id, room_id=room_id, type=event_type, json=json
        )
        self.announcer.announce(ACCOUNT_DATA, [row])
        if (room_id, event_type) == ("", "m.ignored_user_list"):
            stored = await get_push_rules(self.database, user_id)
            await self.set_push_rules(user_id, stored.rules, list((content or {}).get("ignored_users", {})))
            for persister in self.persisters:
                await persister.foundation.follower.read_now(PUSH_RULES)

    async def set_push_rules(self, user_id: str, rules: bytes, ignored: Sequence[str] = ()) -> None:
        position = await self.database.fetchval(
            """
            INSERT INTO push_rules VALUES ($1, $2, $3, true, '{}', $4, nextval('stream_push_rules'))
            ON CONFLICT (user_id) DO UPDATE
            SET rules = excluded.rules, ignored = excluded.ignored, writer = excluded.writer,
                position = excluded.position
            RETURNING position
            """,
            user_id, rules, list(ignored), self.announcer.lease,
        )  # fmt: skip
        row = PushRulesRow(
            position=position, writer=self.announcer.lease, user_id=user_id, rules=rules, ignored=tuple(ignored)
        )
        self.announcer.announce(PUSH_RULES, [row])

    def set_typing(self, room_id: str, user_id: str, until_ms: int) -> None:
        position = self.announcer.next_ephemeral_position(TYPING)
        self.announcer.announce(
            TYPING,
            [
                TypingRow(
                    position=position, writer=self.announcer.lease, room_id=room_id, user_id=user_id, until_ms=until_ms
                )
            ],
        )


@dataclass(slots=True)
class Client:
    """One device. synchrotron: which process serves it."""

    world: World
    writes: User
    synchrotron: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        return self.writes.user_id

    async def get(self, path: str, **query: Any) -> Answer:
        process = self.world.synchrotrons[self.synchrotron]
        token = f"{self.user_id}|{self.writes.device}"
        return await process.get("/_matrix/client/v3" + path, query, token)

    async def post(self, path: str, body: Any, **query: Any) -> Answer:
        """body: None for none."""
        process = self.world.synchrotrons[self.synchrotron]
        token = f"{self.user_id}|{self.writes.device}"
        encoded = b"" if body is None else orjson.dumps(body)
        return await process.call("POST", "/_matrix/client/v3" + path, query, token, encoded)

    async def sync(self, since: str | None = None, **query: Any) -> Any:
        """GET /sync; the answer's JSON. filter: a dict."""
        if since is not None:
            query["since"] = since
        answer = await self.get("/sync", **query)
        assert answer.status == 200, answer.body
        return answer.json

    async def room(self, room_id: str, path: str, **query: Any) -> Answer:
        return await self.get(f"/rooms/{quote(room_id, safe='')}/{path}", **query)


@asynccontextmanager
async def fleet(
    dsn: str, *, synchrotrons: int = 1, persisters: int = 1, rooms_bytes: int = 1 << 26
) -> AsyncIterator[World]:
    """persisters: rooms are dealt out among them by slot."""
    async with AsyncExitStack() as stack:
        bus = Bus()
        made = []
        for number in range(persisters):
            persister = await stack.enter_async_context(
                event_persister(dsn, takes=lambda slot, number=number: slot % persisters == number)  # type: ignore[misc]
            )
            persister.bus.publish = bus.publish  # type: ignore[method-assign]
            made.append(persister)
        for persister in made:
            persister.router.other = next((other for other in made if other is not persister), None)
        connect = connector(dsn, pgbouncer=False)
        database = Database(connect, max_connections=4)
        stack.push_async_callback(database.close)
        stored = (RECEIPTS, ACCOUNT_DATA, PUSH_RULES)
        sequences = {stream.name: stream.sequence for stream in stored} | {TYPING.name: ""}
        async with database.connection() as conn:
            lease = await insert_lease(
                conn, process=f"client_api-{next(_numbers)}", type_="client_api", host="h", pid=1,
                address="127.0.0.1:1", version="0", sequences=sequences,
            )  # fmt: skip
        writer = FencedWriter(connect, lease, SeenPositions(), lambda why: None)
        announcer = Announcer(lease, bus, SeenPositions())
        readers = [await stack.enter_async_context(_synchrotron(dsn, bus, rooms_bytes)) for _ in range(synchrotrons)]
        yield World(made, readers, bus, database, announcer, writer)


@asynccontextmanager
async def _synchrotron(dsn: str, bus: Bus, rooms_bytes: int) -> AsyncIterator[Synchrotron]:
    config = make_config(caches=Caches(rooms_bytes=rooms_bytes), replication=Replication())
    tasks, registry, clock = TaskGroup(), CollectorRegistry(), SystemClock()
    connect = connector(dsn, pgbouncer=False)
    database = Database(connect, max_connections=6)
    follower = Follower(database, bus, SeenPositions(), config.replication, clock, tasks, ReplicationMetrics(registry))
    fields: dict[str, Any] = dict.fromkeys(f.name for f in dataclasses.fields(Foundation))
    fields |= {
        "config": config, "endpoints": ENDPOINTS, "pools": {pool.name: pool for pool in POOLS},
        "name": "synchrotron", "worker_type": "synchrotron", "clock": clock, "tasks": tasks, "registry": registry,
        "database": database, "connect": connect, "transport": bus, "follower": follower,
        "authenticator": NobodyLogsOut(), "slots": NobodyOwns(),
    }  # fmt: skip
    foundation = Foundation(**fields)
    worker = compose(foundation)
    await follower.start()
    await worker.begin(tasks)
    application = Application(
        ENDPOINTS, worker.handlers(), authenticator=Tokens(), rate_limiter=NoLimits(), slot_router=ServesAll(),
        internal_secret=SECRET, max_body_bytes=1 << 20, metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )  # fmt: skip
    try:
        yield Synchrotron(application, foundation)
    finally:
        if worker.drain is not None:
            await worker.drain()
        await tasks.close()
        await database.close()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


async def soon(task: "asyncio.Task[Any]") -> None:
    """Let a task run until it waits for something that only the test can bring."""
    for _ in range(50):
        await asyncio.sleep(0.002)
        if task.done():
            return
