"""Shares of scarce work: no user holds all places, and refusals tell when to come back."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from shared.core.errors import MatrixError
from shared.operations.passwords import PasswordHasher
from shared.runtime.fair_shares import FairShares


async def test_user_holds_at_most_their_share() -> None:
    shares = FairShares("searches", 4, per_user=2)
    held: list[str] = []
    go_on = asyncio.Event()

    async def work(user: str) -> None:
        async with shares.place(user):
            held.append(user)
            await go_on.wait()

    greedy = [asyncio.create_task(work("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    others = [asyncio.create_task(work(user)) for user in ("a", "b")]
    await asyncio.sleep(0)
    assert sorted(held) == ["a", "b", "greedy", "greedy"]
    assert (shares.held, shares.waiting) == (4, 18)
    go_on.set()
    await asyncio.gather(*greedy, *others)
    assert (shares.held, shares.waiting, shares.refused) == (0, 0, 0)


async def test_free_place_goes_to_a_user_below_their_share() -> None:
    """Others of the greedy user wait before them, and may not have it."""
    shares = FairShares("searches", 2, per_user=1)
    async with shares.place("greedy"):
        waiting = asyncio.create_task(shares.take("greedy"))
        await asyncio.sleep(0)
        async with shares.place("other"):
            last = asyncio.create_task(shares.take("third"))
            await asyncio.sleep(0)
            assert not last.done()
        await asyncio.wait_for(last, 5)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)


async def test_too_many_waiting_requests_are_refused() -> None:
    shares = FairShares("searches", 1, waiting_per_user=2)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(shares.place("greedy"))
        waiting = [asyncio.create_task(shares.take("greedy")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(MatrixError, match="Too many searches") as refused:
            await shares.take("greedy")
        assert (refused.value.status, refused.value.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert refused.value.extra["retry_after_ms"] > 0
        other = asyncio.create_task(shares.take("other"))
        await asyncio.sleep(0)
        assert not other.done()  # waits for a place, and is not refused
        for task in (*waiting, other):
            task.cancel()
    assert shares.refused == 1


async def test_long_wait_is_refused_and_leaves_nothing_behind() -> None:
    shares = FairShares("searches", 1, patience_s=0.01)
    async with shares.place("slow"):
        with pytest.raises(MatrixError, match="Too many searches"):
            await shares.take("other")
    assert (shares.held, shares.waiting, shares.refused) == (0, 0, 1)
    async with shares.place("other"):
        assert shares.held == 1


async def test_strangers_do_not_keep_a_user_from_logging_in() -> None:
    """One address asks for a hundred passwords: another one does not wait for all of them."""
    hasher = PasswordHasher(2, 8)
    order: list[str] = []

    async def verify(address: str) -> None:
        try:
            await hasher.verify(None, "wrong", address)
            order.append(address)
        except MatrixError as error:
            assert error.status == 429
            order.append("refused")

    await hasher.verify(None, "first", "192.0.2.9")  # makes the hash that others share
    strangers = [asyncio.create_task(verify("192.0.2.1")) for _ in range(100)]
    await asyncio.sleep(0)
    user = asyncio.create_task(verify("192.0.2.2"))
    await user
    assert order.count("192.0.2.1") <= 5
    assert order.count("refused") == 79
    for task in strangers:
        task.cancel()
    await asyncio.wait(strangers)
