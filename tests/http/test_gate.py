"""Refusals by a listener's gate while the process may not answer."""

import logging
from typing import Any

import orjson
import pytest

from shared.http.asgi import Receive, Send, send_response
from shared.http.gate import Gate
from shared.http.request import Response


async def _application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send_response(send, Response(b"{}"))


async def _ask(gate: Gate) -> tuple[int, str]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await gate({"type": "http", "raw_path": b"/_matrix/client/versions", "headers": []}, receive, send)
    return sent[0]["status"], orjson.loads(sent[1]["body"]).get("error", "")


async def test_gate_says_why_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    gate, confirmed = Gate(), True
    assert await _ask(gate) == (503, "This process is joining the fleet")
    gate.open(_application, lambda: confirmed)
    assert await _ask(gate) == (200, "")
    confirmed = False
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            status, error = await _ask(gate)
            assert (status, "lease" in error) == (503, True)
        assert [record.levelname for record in caplog.records] == ["WARNING"], "once, not for each request"
        confirmed = True
        assert await _ask(gate) == (200, "")
        assert "3 requests were refused" in caplog.records[-1].getMessage()
    gate.close()
    assert await _ask(gate) == (503, "This process is joining the fleet")
