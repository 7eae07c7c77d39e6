"""Requests to an ASGI application without a port."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson

from shared.core.identifiers import EventId
from shared.http.server import Application

SECRET = "internal secret for tests"


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def errcode(self) -> str:
        code: str = self.json.get("errcode", "")
        return code

    @property
    def event_id(self) -> EventId:
        assert self.status == 200, self.body
        event_id: EventId = self.json["event_id"]
        return event_id


async def ask(
    application: Application,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    query: str = "",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Answer:
    """Send one request, and return the whole answer. The client stays connected until then."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [*headers, *([(b"content-length", b"%d" % len(body))] if body else [])],
        "client": ("127.0.0.1", 1),
    }
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not pending:
            await asyncio.get_running_loop().create_future()
        return pending.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    answer_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), answer_headers)


def query_of(values: Mapping[str, Any]) -> str:
    """Return a query string. Objects become JSON."""
    return urlencode({key: _text(value) for key, value in values.items()})


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)
