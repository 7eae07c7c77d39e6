"""Users' shares in scarce requests of a synchrotron, and in answers that clients do not take."""

import asyncio
from typing import Any

import pytest

from shared.config.sections import Places, Shares
from shared.core.errors import MatrixError
from shared.core.identifiers import UserId
from shared.http import asgi
from shared.http.asgi import send_response
from shared.http.endpoint import Endpoint, Share
from shared.http.request import Request, Requester, Response
from shared.operations.request_shares import RequestShares


def request_of(user: str, share: Share) -> Request:
    return Request(
        endpoint=Endpoint(name="x", method="GET", path="/x", pool="sync", share=share),
        method="GET",
        path=b"/x",
        raw_query=b"",
        params={},
        headers={},
        body=b"",
        client_address="192.0.2.1",
        request_id="r",
        requester=Requester(UserId(f"@{user}:x"), "D", b""),
    )


async def test_one_user_never_holds_all_polls() -> None:
    shares = RequestShares(Shares(polls=Places(10, 4)))
    answered = asyncio.Event()

    async def poll(request: Request) -> Response:
        await answered.wait()
        return Response(b"{}")

    polls = [asyncio.create_task(shares.serve(poll, request_of("mallory", Share.POLLS))) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(MatrixError, match="Too many requests of /sync") as refused:
        await shares.serve(poll, request_of("mallory", Share.POLLS))
    assert refused.value.status == 429
    polls.append(asyncio.create_task(shares.serve(poll, request_of("alice", Share.POLLS))))
    await asyncio.sleep(0)
    answered.set()
    assert len(await asyncio.gather(*polls)) == 5
    assert shares.by_kind[Share.POLLS].held == 0


async def test_user_with_twenty_devices_notices_nothing() -> None:
    shares = RequestShares(Shares())
    answered = asyncio.Event()

    async def poll(request: Request) -> Response:
        await answered.wait()
        return Response(b"{}")

    polls = [asyncio.create_task(shares.serve(poll, request_of("alice", Share.POLLS))) for _ in range(60)]
    await asyncio.sleep(0)
    answered.set()
    assert len(await asyncio.gather(*polls)) == 60


async def test_long_answer_holds_its_place_until_it_is_sent() -> None:
    shares = RequestShares(Shares(states=Places(1, 1)))

    async def pieces() -> Any:
        yield b"["
        yield b"]"

    async def state(request: Request) -> Response:
        return Response(pieces())

    async def fails(request: Request) -> Response:
        raise ValueError("no state")

    response = await shares.serve(state, request_of("alice", Share.STATES))
    assert shares.by_kind[Share.STATES].held == 1
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await send_response(send, response)
    assert shares.by_kind[Share.STATES].held == 0
    assert b"".join(message.get("body", b"") for message in sent) == b"[]"
    with pytest.raises(ValueError, match="no state"):
        await shares.serve(fails, request_of("alice", Share.STATES))
    assert shares.by_kind[Share.STATES].held == 0


async def test_answers_that_are_not_taken_count_against_their_user() -> None:
    shares = RequestShares(Shares(untaken_bytes_per_user=300_000))
    mallory, alice = request_of("mallory", Share.NONE), request_of("alice", Share.NONE)
    large = Response(b"x" * 200_000)
    with shares.sending(mallory, large):
        shares.check_untaken(mallory)
        with shares.sending(mallory, large):
            with pytest.raises(MatrixError, match="Take the answers"):
                shares.check_untaken(mallory)
            shares.check_untaken(alice)
            with shares.sending(alice, Response(b"{}")):
                assert set(shares._untaken_bytes) == {"@mallory:x"}
    shares.check_untaken(mallory)
    assert not shares._untaken_bytes


async def test_client_that_takes_a_large_answer_slowly_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece in time after another does not help: the whole answer has a deadline."""
    monkeypatch.setattr(asgi, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(asgi, "_LEAST_BYTES_PER_S", 10_000_000)
    sent = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        if message.get("body"):
            await asyncio.sleep(0.1)  # a third of the patience for each piece
            sent += len(message["body"])

    body = b"x" * 2_000_000
    with pytest.raises(TimeoutError):
        await send_response(send, Response(body))
    assert 0 < sent < len(body)


async def test_large_answers_are_sent_whole() -> None:
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))

    body = bytes(range(256)) * 2_000
    await send_response(send, Response(body))
    assert b"".join(sent) == body
