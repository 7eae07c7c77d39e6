"""A command's own lease: it writes as any process of the fleet does, fenced and visible in `skep status`."""

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

_TYPE = "command"  # no worker's type, so it never gets slots or requests
_NO_ADDRESS = "none:0"


@asynccontextmanager
async def own_writer(config: Config, name: str) -> AsyncIterator[FencedWriter]:
    """Lend a writer under a lease that is returned at the end. If the command is killed, the leader ends the lease.

    name: of the command.
    Raises Unavailable without a database. The writer raises Fenced once the lease is lost.
    """
    pgbouncer = config.database.pgbouncer
    settings = () if pgbouncer else SESSION_LIMITS
    connect = connector(database_dsn(config.database), pgbouncer=pgbouncer, settings=settings)
    membership = Membership(
        connect,
        config.replication,
        SystemClock(),
        name=f"{name}-{socket.gethostname()}-{os.getpid()}",
        worker_type=_TYPE,
        address=_NO_ADDRESS,
        version=version("skep"),
        streams=(),
    )
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
