"""Reads end with their connection. Writes go on, since their client may ask for the result."""

import asyncio
import gc
import socket
import struct
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.config.sections import Limits
from shared.http.endpoint import Auth, Endpoint, Share
from shared.http.gate import Gate
from shared.http.listener import HttpServer
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Response, empty_response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from tests.http.listening_worker import application
from tests.rigs.waiting import until


class _Nobody:
    async def authenticate(self, token: str | None, request: Request) -> Any:
        raise AssertionError

    async def check(self, *_: Any) -> None:
        pass

    async def route(self, request: Request) -> None:
        pass

    def served(self, request: Request) -> None:
        pass


@pytest.mark.parametrize(("share", "ends"), [(Share.POLLS, True), (Share.KEYS, False), (Share.NONE, False)])
async def test_request_ends_with_its_connection(share: Share, ends: bool) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    async def wait(request: Request) -> Response:
        began.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        outcomes.append("answered")
        return empty_response()

    nobody, registry = _Nobody(), CollectorRegistry()
    application = Application(
        [Endpoint(name="wait", method="GET", path="/wait", pool="sync", auth=Auth.NONE, share=share)],
        {"wait": wait},
        authenticator=nobody,
        rate_limiter=nobody,
        slot_router=nobody,
        internal_secret="x",
        limits=Limits(),
        metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )
    listener = HttpServer(application, "127.0.0.1", 0)
    host, _, port = (await listener.start()).rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(began.wait(), 5)
    writer.close()
    if ends:
        await until(lambda: outcomes == ["cancelled"])
        labels = {"endpoint": "wait", "method": "GET", "status": "499"}
        await until(lambda: registry.get_sample_value("skep_http_requests_total", labels) == 1)
    else:
        await until(lambda: not listener._state.connections)
        assert outcomes == []
        go_on.set()
        await until(lambda: outcomes == ["answered"])
    await listener.drain(0.1)


async def test_connection_that_was_reset_leaves_nothing_behind() -> None:
    """haproxy resets idle connections. Each kept 8 KiB for two minutes: a stranger could fill the memory."""
    gate = Gate()
    gate.open(application(), lambda: True)
    server = HttpServer(gate, "127.0.0.1", 0)
    host, port = (await server.start()).split(":")
    before = _connections()
    for _ in range(50):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        # Without the time to linger, closing resets the connection.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
    await until(lambda: _connections() <= before + 5)
    await server.drain(1)


def _connections() -> int:
    gc.collect()
    return sum(type(each).__name__ == "_Connection" for each in gc.get_objects())
