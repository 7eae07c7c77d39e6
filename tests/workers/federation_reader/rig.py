"""A federation_reader in memory, and the requests that other servers sign."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from shared.config.sections import Federation
from shared.core.federation.request_auth import sign_request
from shared.core.identifiers import ServerName
from shared.core.signing.keys import SigningKey
from tests.rigs.outside import Handler, OutsideWorld, Peer
from tests.rigs.requests import Answer, ask
from tests.rigs.worker import SERVER, MemoryWorker, WorkerCode, make_config, run_worker
from workers.federation_reader.compose import compose
from workers.federation_reader.endpoints import ENDPOINTS, POOLS

_CODE = WorkerCode(
    type="federation_reader", compose=compose, endpoints=ENDPOINTS, pools=POOLS, streams={"receipts": ""}, follows=False
)


@dataclass(slots=True, kw_only=True)
class Reader(MemoryWorker):
    """A running reader."""

    async def ask_as(
        self,
        peer: Peer,
        method: str,
        uri: str,
        content: Any = None,
        *,
        destination: str = SERVER,
        key: SigningKey | None = None,
        authorization: str | None = None,
    ) -> Answer:
        """Send a request that a peer signed. authorization: replaces its header."""
        header = authorization or sign_request(
            key or peer.key,
            origin=ServerName(peer.name),
            destination=ServerName(destination),
            method=method,
            uri=uri,
            content=content,
        )
        body = b"" if content is None else orjson.dumps(content)
        path, _, query = uri.partition("?")
        headers = [(b"authorization", header.encode())]
        return await ask(self.application, method, path, body, query=query, headers=headers)

    async def call_json(self, method: str, path: str, content: Any) -> Answer:
        """Send a request that nobody signed."""
        return await self.raw(method, path, orjson.dumps(content))


@asynccontextmanager
async def reader(dsn: str, world: OutsideWorld, **settings: Any) -> AsyncIterator[Reader]:
    """Run a reader that may connect to this machine and trusts the world's authority. settings: of `federation`."""
    given: dict[str, Any] = {
        "allowed_ip_ranges": ("127.0.0.0/8",),
        "custom_ca_file": world.authority.ca_file,
        "trusted_key_servers": (),
    }
    config = make_config(federation=Federation(**(given | settings)))
    async with run_worker(dsn, _CODE, kind=Reader, config=config) as running:
        yield running


@asynccontextmanager
async def publishing_peer(world: OutsideWorld, also: Handler | None = None) -> AsyncIterator[Peer]:
    """Run a peer that publishes its keys for a day, and answers everything else by `also`."""
    found: list[Peer] = []

    def answer(request: Any) -> Any:
        if request.uri == "/_matrix/key/v2/server":
            return 200, found[0].published_keys(_tomorrow_ms())
        return also(request) if also is not None else (404, {})

    async with world.peer("", answer, ports=()) as peer:
        found.append(peer)
        yield peer


def _tomorrow_ms() -> int:
    return int((time.time() + 86_400) * 1000)
