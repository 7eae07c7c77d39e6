"""One process, one incarnation after another: whoever loses his lease joins anew, on the same port.

A lease is lost when the leader gave the process up for dead (it was stopped, or cut off), or when the process fenced
itself since nobody knows how a write of its own ended. Either way its memory is void and its number is never used
again; the process itself is well, and the next incarnation reads what it needs. One that is lost again and again ends
the process: its supervisor, and the people behind it, should see that something is wrong.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from replication.process.draining import DRAINED
from replication.process.foundation import Compose
from replication.process.incarnation import Ended, Process, live
from replication.streams.checks import check_registry
from shared.config.hosts import with_port
from shared.config.sections import Config
from shared.http.client import HttpClient
from shared.http.endpoint import Endpoint, Pool
from shared.http.gate import Gate
from shared.http.listener import HttpServer
from shared.runtime import fault_points, tracing
from shared.runtime.clock import SystemClock

logger = logging.getLogger(__name__)

#: An incarnation that served for so long was a success: the failures before it count no more.
_SETTLED_AFTER_S = 30.0
#: So many in a row, some 40 s of them: the process ends.
MAX_FAILURES = 10
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 5.0


async def run_worker(
    worker_type: str,
    name: str,
    config: Config,
    compose: Compose,
    endpoints: Sequence[Endpoint],
    pools: Mapping[str, Pool],
    stop: asyncio.Event,
    *,
    listen_port: int | None = None,
) -> int:
    """Run one worker process until `stop` is set, or it can no longer join the fleet; return the exit code.

    endpoints, pools: the whole fleet's. listen_port: overrides the configuration's.
    """
    check_registry()
    fault_points.arm(config.testing.fault_points, os.environ)
    if config.tracing.enabled:
        where = config.tracing
        tracing.start_tracing(f"skep-{worker_type}", name, where.agent_host, where.agent_port, where.sample_rate)
    # Imports the reactor: only now, after run_until_stopped installed it.
    from twisted.internet import reactor  # noqa: PLC0415

    # The listener comes first: its port is part of what we register.
    gate = Gate()
    port = config.workers.listen_port if listen_port is None else listen_port
    server = HttpServer(gate, config.workers.listen_host, port)
    try:
        address = await server.start()
    except OSError as error:
        logger.error("%s cannot listen at %s: %s", name, with_port(config.workers.listen_host, port), error)
        return 1
    if config.workers.advertise_host is not None:
        address = with_port(config.workers.advertise_host, int(address.rpartition(":")[2]))
    process = Process(
        worker_type=worker_type,
        name=name,
        config=config,
        compose=compose,
        endpoints=endpoints,
        pools=pools,
        clock=SystemClock(),
        reactor=reactor,
        http_client=HttpClient(reactor),
        gate=gate,
        server=server,
        address=address,
    )

    async def wait(delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await stop.wait()

    return await keep_living(lambda rejoins: live(process, stop, rejoins), stop, wait)


async def keep_living(
    live: Callable[[int], Awaitable[Ended]], stop: asyncio.Event, wait: Callable[[float], Awaitable[None]]
) -> int:
    """Begin one incarnation after another; return the exit code.

    live(number of rejoins): one incarnation. wait(seconds): returns early once `stop` is set. Raises what kept the
    first one from beginning: a process that never served has nothing to hold on to.
    """
    failures = rejoins = 0
    while True:
        try:
            ended = await live(rejoins)
        except Exception:
            if rejoins == 0:
                raise
            logger.exception("The process could not join the fleet anew")
            ended = Ended(fenced=True, served_s=0.0)
        if stop.is_set():
            return 1 if ended.fenced else 0
        if ended.drained and not ended.fenced:
            logger.info("An operator drained this process: it ends")
            return DRAINED
        failures = 0 if ended.served_s >= _SETTLED_AFTER_S else failures + 1
        if failures >= MAX_FAILURES:
            logger.error("The process lost its lease %d times in a row, and ends", failures)
            return 1
        await wait(delay_s(failures))
        if stop.is_set():
            return 0
        rejoins += 1


def delay_s(failures: int) -> float:
    """Return how long to wait before the next incarnation. After a long life none: its slots wait for it."""
    if failures <= 1:
        return 0.0
    delay = min(_FIRST_DELAY_S * 2.0 ** (failures - 1), _LONGEST_DELAY_S)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
