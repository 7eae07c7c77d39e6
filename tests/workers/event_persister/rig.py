"""Event persisters in memory: real PostgreSQL, their ASGI applications without a port, a bus that keeps messages.

Tokens are user ids: who asks is not what these tests are about.
"""

import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
from prometheus_client import CollectorRegistry

from replication.bus import wire
from replication.calls.owner_calls import OwnerCalls
from replication.process.foundation import Foundation
from replication.streams import EVENTS, PUSH_RULES
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.follower import Follower
from shared.config.kinds import Secret
from shared.config.sections import Config, Secrets, Signing
from shared.core.errors import RemoteServerError
from shared.core.rows import EventRow
from shared.core.slots import slot_of
from shared.http.client import HttpResponse
from shared.http.internal_calls import InternalClient
from shared.http.process_pages import ProcessPages
from shared.http.request import FORWARDED, Request, Requester, Response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from shared.metrics.replication import ReplicationMetrics
from shared.runtime.clock import SystemClock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import insert_lease
from workers.event_persister.compose import compose
from workers.event_persister.endpoints import ENDPOINTS, POOLS

SERVER = "example.org"
SECRET = "internal secret for tests"
_numbers = itertools.count(1)


def make_config(**sections: Any) -> Config:
    given: dict[str, Any] = {
        "signing": Signing(key=Secret("ed25519 a_1 " + "A" * 43)),
        "secrets": Secrets(internal_secret=Secret(SECRET)),
    }
    return Config(server_name=SERVER, public_base_url="https://matrix.example.org/", **(given | sections))


class KeptMessages:
    """The message bus: what was published."""

    connected = True

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, channel: str, message: bytes) -> None:
        self.published.append((channel, message))

    def subscribe(self, channels: Sequence[str], on_message: Any, on_up: Callable[[], None]) -> None:
        """A persister follows no stream here."""

    async def close(self) -> None:
        """Nothing is open."""

    def rows(self) -> list[EventRow]:
        """Every event announced so far."""
        decoder = wire.row_decoder(EventRow)
        frames = [wire.decode_frame(m) for channel, m in self.published if channel == EVENTS.channel]
        return [decoder.decode(row) for frame in frames for row in frame.rows]


class Slots:
    """The slot table of one persister: rooms whose slot the predicate takes."""

    def __init__(self, takes: Callable[[int], bool]) -> None:
        self.takes = takes
        self.listeners: list[Callable[[str, set[int]], None]] = []
        self.refreshed = 0

    def owns(self, kind: str, slot: int) -> bool:
        return self.takes(slot)

    def owned(self, kind: str) -> set[int]:
        return {slot for slot in range(1024) if self.takes(slot)}

    def on_change(self, listener: Callable[[str, set[int]], None]) -> None:
        self.listeners.append(listener)

    def address(self, kind: str, slot: int) -> str | None:
        return "here" if self.takes(slot) else "other"

    async def refresh(self) -> None:
        self.refreshed += 1


class Router:
    """Routes as SlotForwarder does, to the other persister in memory."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.other: Persister | None = None

    async def route(self, request: Request) -> Response | None:
        room_id = request.params.get("roomId") or request.params.get("roomIdOrAlias") or "#"
        if room_id.startswith("#") or self.slots.takes(slot_of(room_id)):
            return None
        return await self.forward(request, "rooms", slot_of(room_id))

    async def forward(self, request: Request, kind: str, slot: int, *, path: bytes | None = None) -> Response | None:
        if self.slots.takes(slot) or self.other is None:
            return None
        assert FORWARDED not in request.headers, "passed on twice"
        headers = [*request.headers.items(), (FORWARDED, b"1")]
        answer = await self.other.raw(request.method, (path or request.path).decode(), request.body, headers)
        return Response(answer.body, answer.status)

    async def route_to_any(self, request: Request, kind: str) -> Response | None:
        return None

    def free_slots(self, kind: str) -> set[int]:
        return self.slots.owned(kind)

    def hold(self, request: Request, kind: str, slot: int) -> None:
        """Slots stay where they are."""

    def served(self, request: Request) -> None:
        """Nobody counts them here."""


class CallsInMemory:
    """The HTTP client of calls between owners of rooms: to this persister, or to the other one."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.here: Persister | None = None

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes, *, timeout_s: float
    ) -> HttpResponse:
        host, _, path = url.decode().removeprefix("http://").partition("/")
        owner = self.here if host == "here" else self.router.other
        if owner is None:
            raise RemoteServerError("ConnectionRefusedError")
        answer = await owner.raw(method.decode(), "/" + path, body, list(headers.items()))
        return HttpResponse(answer.status, {}, answer.body)


class Tokens:
    """guests: user ids of guests."""

    def __init__(self) -> None:
        self.guests: set[str] = set()

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        assert token is not None
        user_id, _, device = token.partition("|")
        return Requester(user_id, device or "DEVICE", token.encode(), is_guest=user_id in self.guests)


class NoLimits:
    async def check(self, *args: Any) -> None:
        return None


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def errcode(self) -> str:
        code: str = self.json.get("errcode", "")
        return code

    @property
    def event_id(self) -> str:
        assert self.status == 200, self.body
        event_id: str = self.json["event_id"]
        return event_id


@dataclass(slots=True)
class Persister:
    application: Application
    foundation: Foundation
    bus: KeptMessages
    tokens: Tokens
    slots: Slots
    router: Router
    drain: Callable[[], Awaitable[None]]

    async def raw(self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "method": method, "raw_path": path.encode(), "query_string": b"",
            "headers": list(headers), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, receive, send)
        return Answer(sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]))

    async def internal(self, method: str, path: str, body: Any) -> Answer:
        secret = (b"authorization", b"Bearer " + SECRET.encode())
        return await self.raw(method, path, orjson.dumps(body), [secret])

    def user(self, name: str, device: str = "DEVICE") -> "User":
        return User(self, f"@{name}:{SERVER}", device)

    async def sql(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        return await self.foundation.database.fetch(statement, *args)

    async def content(self, room_id: str, event_type: str, state_key: str = "") -> Any:
        """Return the content of the current state as it is stored; None where there is none."""
        rows = await self.sql(
            """SELECT e.json FROM current_state s
               JOIN events e USING (room_nid, event_nid) JOIN rooms r USING (room_nid)
               WHERE r.room_id = $1 AND s.type = $2 AND s.state_key = $3""",
            room_id, event_type, state_key,
        )  # fmt: skip
        return orjson.loads(rows[0]["json"])["content"] if rows else None

    async def timeline(self, room_id: str) -> list[asyncpg.Record]:
        return await self.sql(
            "SELECT e.* FROM events e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 ORDER BY ordinal",
            room_id,
        )


@dataclass(slots=True)
class User:
    persister: Persister
    user_id: str
    device: str
    _txn: int = field(default=0)

    async def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Answer:
        """path: below /_matrix/client/v3 unless it begins with "/_"."""
        if not path.startswith("/_"):
            path = "/_matrix/client/v3" + path
        content = raw if raw is not None else (b"" if body is None else orjson.dumps(body))
        token = f"Bearer {self.user_id}|{self.device}".encode()
        return await self.persister.raw(method, path, content, [(b"authorization", token)])

    async def create_room(self, **body: Any) -> str:
        answer = await self.call("POST", "/createRoom", body)
        assert answer.status == 200, answer.body
        room_id: str = answer.json["room_id"]
        return room_id

    async def act(self, room_id: str, action: str, body: Mapping[str, Any] | None = None) -> Answer:
        """POST /rooms/{roomId}/{action}"""
        return await self.call("POST", f"/rooms/{quote(room_id, safe='')}/{action}", body or {})

    async def send(self, room_id: str, text: str, txn: str | None = None) -> Answer:
        content = {"msgtype": "m.text", "body": text}
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{txn or f't{next(_numbers)}'}"
        return await self.call("PUT", path, content)

    async def put_state(self, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str = "") -> Answer:
        key = f"/{quote(state_key, safe='')}" if state_key else ""
        return await self.call("PUT", f"/rooms/{quote(room_id, safe='')}/state/{event_type}{key}", content)

    async def redact(self, room_id: str, event_id: str, body: Any = None) -> Answer:
        room, event = quote(room_id, safe=""), quote(event_id, safe="")
        return await self.call("PUT", f"/rooms/{room}/redact/{event}/t{next(_numbers)}", body or {})


@asynccontextmanager
async def event_persister(
    dsn: str, *, takes: Callable[[int], bool] = lambda slot: True, config: Config | None = None
) -> AsyncIterator[Persister]:
    """takes: the slots of rooms that this one owns."""
    config = config or make_config()
    tasks, bus, registry, clock = TaskGroup(), KeptMessages(), CollectorRegistry(), SystemClock()
    connect = connector(dsn, pgbouncer=False)
    database = Database(connect, max_connections=4)
    name = f"event_persister-{next(_numbers)}"
    async with database.connection() as conn:
        lease = await insert_lease(
            conn, process=name, type_="event_persister", host="h", pid=1, address="127.0.0.1:1", version="0",
            sequences={stream.name: stream.sequence for stream in (EVENTS, PUSH_RULES)},
        )  # fmt: skip
    seen = SeenPositions()
    follower = Follower(database, bus, seen, config.replication, clock, tasks, ReplicationMetrics(registry))
    writer = FencedWriter(connect, lease, seen, lambda why: None)
    slots = Slots(takes)
    router = Router(slots)
    tokens, calls = Tokens(), CallsInMemory(router)
    fields: dict[str, Any] = dict.fromkeys(f.name for f in dataclasses.fields(Foundation))
    fields |= {
        "config": config, "endpoints": ENDPOINTS, "pools": {pool.name: pool for pool in POOLS}, "name": name,
        "worker_type": "event_persister", "clock": clock, "tasks": tasks, "registry": registry,
        "database": database, "connect": connect, "transport": bus, "lease": lease, "writer": writer,
        "announcer": Announcer(lease, bus, seen), "follower": follower, "slots": slots, "forwarder": router,
        "http_client": calls, "calls": OwnerCalls(slots, InternalClient(calls, SECRET), clock),
    }  # fmt: skip
    foundation = Foundation(**fields)
    worker = compose(foundation)
    application = Application(
        ENDPOINTS, worker.handlers(), authenticator=tokens, rate_limiter=NoLimits(), slot_router=router,
        internal_secret=SECRET, max_body_bytes=1 << 20, metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )  # fmt: skip
    assert worker.drain is not None
    try:
        await follower.start()
        await worker.begin(tasks)
        persister = Persister(application, foundation, bus, tokens, slots, router, worker.drain)
        calls.here = persister
        yield persister
    finally:
        await worker.drain()
        await tasks.close()
        await writer.close()
        await database.close()
