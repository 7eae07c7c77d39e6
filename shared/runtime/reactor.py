"""One process, one loop: uvloop, Twisted's reactor on top of it, asyncio tasks in it.

The loop and the reactor are made here, in the worker process, after the fork and before anything imports
`twisted.internet.reactor`.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

logger = logging.getLogger(__name__)


def run_until_stopped(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run `main(stop)` in a task until it returns, and return its exit code.

    stop: set by SIGTERM and SIGINT. Then main hands over, finishes, and returns within its own limit. A second signal
        cancels it.
    """
    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("a reactor was installed before run_until_stopped: import it nowhere at module level")
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    from twisted.internet import asyncioreactor  # noqa: PLC0415 - only after the loop is made

    asyncioreactor.install(loop)
    from twisted.internet import reactor  # noqa: PLC0415

    exit_code = 1
    stop = asyncio.Event()

    async def top() -> None:
        nonlocal exit_code
        task = asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            exit_code = await main(stop)
        except asyncio.CancelledError:
            logger.warning("Stopped before everything was handed over")
        except Exception:
            logger.exception("The process ends because of an unhandled error")
        finally:
            reactor.stop()

    keep: list[asyncio.Task[None]] = []
    reactor.callWhenRunning(lambda: keep.append(loop.create_task(top())))
    reactor.run(installSignalHandlers=False)
    return exit_code
