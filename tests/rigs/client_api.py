"""The client API's worker in memory, with its own authenticator and rate limits. No other process can be called."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from replication.process.foundation import Foundation
from replication.streams import streams_written_by
from shared.config.kinds import Secret
from shared.config.sections import Config, Registration, Secrets
from shared.core.identifiers import UserId
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.rate_limits import FleetRateLimiter
from shared.operations.token_guesses import TokenGuesses
from tests.rigs import worker
from tests.rigs.requests import SECRET, Answer, ask, bearer
from tests.rigs.slots import MemorySlots, Reachable
from tests.rigs.worker import MemoryWorker, WorkerCode, run_worker
from workers.client_api.compose import compose
from workers.client_api.endpoints import ENDPOINTS, POOLS

SHARED_SECRET = "registration secret"
_CODE = WorkerCode(
    type="client_api",
    compose=compose,
    endpoints=ENDPOINTS,
    pools=POOLS,
    streams={stream.name: stream.sequence if stream.catch_up else "" for stream in streams_written_by("client_api")},
    follows=False,
)


def make_config(**sections: Any) -> Config:
    """Return the configuration of an open server without rate limits. sections: replace any of its parts."""
    given: dict[str, Any] = {
        "secrets": Secrets(internal_secret=Secret(SECRET), registration_shared_secret=Secret(SHARED_SECRET)),
        "registration": Registration(enabled=True, require_token=False, allow_guests=True),
    }
    return worker.make_config(**(given | sections))


class ClientApi(MemoryWorker):
    """A running worker. Its jobs run once the test calls `start`."""

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, raw: bytes | None = None,
        address: str = "192.0.2.1", query: str = "", headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:  # fmt: skip
        """Send one request. path: below /_matrix/client/v3 unless it begins with "/_" or "/."."""
        if not path.startswith(("/_", "/.")):
            path = "/_matrix/client/v3" + path
        content = raw if raw is not None else (b"" if body is None else orjson.dumps(body))
        all_headers = [(b"x-forwarded-for", address.encode()), *headers]
        if token is not None:
            all_headers.append(bearer(token))
        return await ask(self.application, method, path, content, query=query, headers=all_headers)

    def reach_rooms_at(self, persister: Reachable) -> None:
        """Let this worker call the owner of all rooms."""
        self.slots.takes, self.slots.reachable, self.router.other = (lambda slot: False), True, persister

    async def register(self, name: str, password: str = "correct horse", **more: Any) -> "User":
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        answer = await self.call("POST", "/register", body)
        assert answer.status == 200, answer.body
        return User(self, answer.json["user_id"], answer.json["access_token"], answer.json["device_id"])

    async def register_guest(self) -> "User":
        answer = await self.call("POST", "/register", {}, query="kind=guest")
        assert answer.status == 200, answer.body
        return User(self, answer.json["user_id"], answer.json["access_token"], answer.json["device_id"])

    async def log_in(self, name: str, device_id: str | None = None, password: str = "correct horse") -> "User":
        body = password_login(name, password) | ({} if device_id is None else {"device_id": device_id})
        answer = await self.call("POST", "/login", body)
        assert answer.status == 200, answer.body
        return User(self, answer.json["user_id"], answer.json["access_token"], answer.json["device_id"])


def password_login(user: str, password: str = "correct horse") -> dict[str, Any]:
    """Return the body of a log-in, which also authenticates a request (UIA). user: a user id or its local part."""
    return {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password}


@dataclass(slots=True)
class User:
    worker: ClientApi
    user_id: UserId
    token: str
    device_id: str
    quoted: str = field(init=False)

    def __post_init__(self) -> None:
        self.quoted = quote(self.user_id, safe="")

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.worker.call(method, path, body, token=self.token, **more)


@asynccontextmanager
async def client_api(dsn: str, config: Config | None = None, name: str = "client_api-1") -> AsyncIterator[ClientApi]:
    config = config or make_config()
    async with run_worker(
        dsn,
        _CODE,
        kind=ClientApi,
        config=config,
        name=name,
        slots=MemorySlots(reachable=False),
        surroundings=_surroundings,
        starts=False,
    ) as running:
        yield running


def _surroundings(foundation: Foundation) -> Mapping[str, Any]:
    clock, slots = foundation.clock, foundation.slots
    return {
        "authenticator": TokenAuthenticator(
            foundation.database,
            clock,
            1 << 20,
            TokenGuesses(foundation.config.rate_limits.unknown_token, clock),
            lambda: asyncio.sleep(0),
        ),
        "rate_limiter": FleetRateLimiter(foundation.config.rate_limits, clock, foundation.internal_client, slots),
    }
