"""Refused requests: their messages name the request, and the log names user and reason."""

import logging
from typing import Any

import orjson
import pytest

from shared.core.errors import InteractiveAuthNeeded, MatrixError, Unavailable, forbidden, not_found
from shared.core.identifiers import UserId
from shared.http.errors_to_json import RefusalLog
from tests.http.listening_worker import application


def note(log: RefusalLog, error: Exception) -> None:
    log.note(error, "PUT", "send_message", UserId("@a:b"), "192.0.2.1")


def test_refusal_is_logged_with_user_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        note(RefusalLog(), forbidden("You are not\njoined"))
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "Refused PUT send_message with 403 M_FORBIDDEN: You are not joined (user @a:b, address 192.0.2.1)"
    )


@pytest.mark.parametrize("error", [not_found("x"), InteractiveAuthNeeded({}), Unavailable("x"), ValueError("x")])
def test_routine_answers_are_not_logged(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    with caplog.at_level(logging.INFO):
        note(RefusalLog(), error)
    assert caplog.records == []


def test_flood_of_refusals_is_bounded_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("shared.http.errors_to_json.time.monotonic", lambda: now_s)
    log = RefusalLog()
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            note(log, MatrixError("M_UNKNOWN_TOKEN", "x", 401))
        assert len(caplog.records) == 50
        now_s = 1.0
        note(log, MatrixError("M_UNKNOWN_TOKEN", "x", 401))
    assert caplog.records[-1].getMessage().startswith("950 more refused requests")


async def ask(method: str, path: str) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw_path, _, query = path.encode().partition(b"?")
    scope = {"type": "http", "method": method, "raw_path": raw_path, "query_string": query, "headers": []}
    await application()(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), orjson.loads(sent[1]["body"])


async def test_unrecognized_request_is_named() -> None:
    status, _, body = await ask("POST", "/_matrix/client/v3/no/such/thing?access_token=hidden")
    assert (status, body["errcode"]) == (404, "M_UNRECOGNIZED")
    assert body["error"] == "POST /_matrix/client/v3/no/such/thing is not available on this server"


async def test_wrong_method_names_the_right_ones() -> None:
    status, headers, body = await ask("PATCH", "/_matrix/client/v3/account/whoami")
    assert (status, body["errcode"], headers[b"allow"]) == (405, "M_UNRECOGNIZED", b"GET")
    assert body["error"] == "PATCH /_matrix/client/v3/account/whoami is not available on this server, but GET is"
