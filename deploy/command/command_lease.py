"""A lease of a command's own, so that it writes as any process of the fleet does: fenced, and seen by `skep status`."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from replication.process.membership import Membership
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.config.addresses import database_dsn
from shared.config.sections import Config
from shared.core.errors import Unavailable
from shared.runtime.clock import SystemClock
from shared.storage.engine.pool import CONNECTION_ERRORS, SESSION_LIMITS, connector

_TYPE = "command"  # no worker's type: it never gets slots or requests
_NO_ADDRESS = "none:0"


@asynccontextmanager
async def own_writer(config: Config, name: str) -> AsyncIterator[FencedWriter]:
    """Lend a writer under a lease that is given back at the end. Should the command be killed, the leader ends it.

    name: of the command. The writer raises Fenced once the lease is lost. Raises Unavailable without a database.
    """
    pgbouncer = config.database.pgbouncer
    connect = connector(
        database_dsn(config.database), pgbouncer=pgbouncer, settings=() if pgbouncer else SESSION_LIMITS
    )
    membership = Membership(
        connect, config.replication, SystemClock(),
        name=f"{name}-{socket.gethostname()}-{os.getpid()}", worker_type=_TYPE, address=_NO_ADDRESS,
        version=version("skep"), streams=(),
    )  # fmt: skip
    try:
        lease = await membership.join()
    except CONNECTION_ERRORS as error:
        raise Unavailable(f"The database is not available: {error}") from error
    writer = FencedWriter(connect, lease, SeenPositions(), lambda why: None)
    beating = asyncio.get_running_loop().create_task(
        membership.run(dict, lambda: None, lambda why: None), name="heartbeat"
    )
    try:
        yield writer
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        await writer.close()
        await membership.leave()
