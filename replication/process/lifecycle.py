"""The life of a worker process: one incarnation after another, on the same port.

A process loses its lease when the leader takes it for dead (it was stopped or cut off), or when it fences itself since
the outcome of a write is unknown. Its memory is then void and its lease number is never used again, but the process
itself is fine, and the next incarnation reads what it needs. A process that loses its lease again and again ends, so
that its supervisor and the operators see that something is wrong.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from replication.process.draining import DRAINED
from replication.process.foundation import Compose
from replication.process.incarnation import Ended, Process, run_incarnation
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

#: An incarnation that served for this time was a success. Earlier failures no longer count.
_SETTLED_AFTER_S = 30.0
#: After this many failures in a row, within about 40 s, the process ends.
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
    """Run one worker process until `stop` is set or it can no longer join the fleet. Return the exit code.

    endpoints, pools: those of the whole fleet.
    listen_port: overrides the configuration.
    """
    check_registry()
    fault_points.arm(config.testing.fault_points, os.environ)
    if config.tracing.enabled:
        where = config.tracing
        tracing.start_tracing(f"skep-{worker_type}", name, where.agent_host, where.agent_port, where.sample_rate)
    # This imports the reactor, so it must come after run_until_stopped installed one.
    from twisted.internet import reactor  # noqa: PLC0415

    # The listener comes first, since the process registers its port.
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

    return await run_incarnations(lambda rejoins: run_incarnation(process, stop, rejoins), stop, wait)


async def run_incarnations(
    run: Callable[[int], Awaitable[Ended]], stop: asyncio.Event, wait: Callable[[float], Awaitable[None]]
) -> int:
    """Run one incarnation after another. Return the exit code.

    run: runs one incarnation. It gets the number of rejoins.
    wait: waits for some seconds, and returns early once `stop` is set.
    Raises the error of a first incarnation that cannot begin: a process that never served need not stay.
    """
    failures = rejoins = 0
    while True:
        try:
            ended = await run(rejoins)
        except Exception:
            if rejoins == 0:
                raise
            logger.exception("The process could not rejoin the fleet")
            ended = Ended(fenced=True, served_s=0.0)
        if stop.is_set():
            return 1 if ended.fenced else 0
        if ended.drained and not ended.fenced:
            logger.info("An operator drained this process. It ends")
            return DRAINED
        failures = 0 if ended.served_s >= _SETTLED_AFTER_S else failures + 1
        if failures >= MAX_FAILURES:
            logger.error("The process lost its lease %d times in a row. It ends", failures)
            return 1
        await wait(rejoin_delay_s(failures))
        if stop.is_set():
            return 0
        rejoins += 1


def rejoin_delay_s(failures: int) -> float:
    """Return the wait before the next incarnation. After a long life there is none: its slots wait for it."""
    if failures <= 1:
        return 0.0
    delay = min(_FIRST_DELAY_S * 2.0 ** (failures - 1), _LONGEST_DELAY_S)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
