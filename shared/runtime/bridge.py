"""The bridge between Twisted's Deferreds and asyncio. No other module converts them.

Application code runs as coroutines in asyncio tasks, which cannot await a bare Deferred. `to_future` makes it a future
of the running loop, keeps the error's type and passes cancellation on.
"""

import asyncio
from typing import Any

from twisted.internet import defer
from twisted.python.failure import Failure


def to_future(deferred: "defer.Deferred[Any]") -> "asyncio.Future[Any]":
    """Return a future with the Deferred's result. Cancelling the future cancels the Deferred."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def succeed(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    def fail(failure: Failure) -> None:
        if future.done():
            return
        if failure.check(defer.CancelledError):
            future.cancel()
        else:
            future.set_exception(failure.value)

    deferred.addCallbacks(succeed, fail)
    future.add_done_callback(lambda done: deferred.cancel() if done.cancelled() else None)
    return future
