"""The process's membership in the fleet: its lease and its heartbeat.

The heartbeat has a connection of its own: a busy pool must not kill its process. A worker's heartbeat also runs on a
loop of its own (`shared/runtime/side_loop.py`): a request that blocks the main loop must not kill it either. A process
that could not renew its heartbeat for `dead_after_s` stops answering from memory (`in_good_standing`), since reads have
no fence.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from replication.streams import Stream
from shared.config.sections import Replication as ReplicationConfig
from shared.runtime.clock import Clock
from shared.storage.engine.pool import PASSING_ERRORS, Connect, Connection
from shared.storage.fleet import leases
from shared.storage.fleet.blocking_work import BlockingWork, Deaths, get_deaths, note_work

logger = logging.getLogger(__name__)
T = TypeVar("T")


class HeartLoop(Protocol):
    """The event loop of a heartbeat. All database work of a membership runs there, the rest on the main loop."""

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and return its result to the main loop."""
        ...

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function there, from the main loop."""
        ...

    def call_back(self, function: Callable[[], Any]) -> None:
        """Call a function on the main loop, from there."""
        ...


class SameLoop:
    """The main loop itself, for short commands and for the simulation."""

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    def call(self, function: Callable[[], Any]) -> None:
        function()

    def call_back(self, function: Callable[[], Any]) -> None:
        function()


class Membership:
    """The membership of one incarnation.

    name: unique in the fleet.
    address: "host:port", as other processes reach it.
    version: of this release.
    heart: the loop of the heartbeat.
    """

    def __init__(
        self,
        connect: Connect,
        config: ReplicationConfig,
        clock: Clock,
        *,
        name: str,
        worker_type: str,
        address: str,
        version: str,
        streams: Sequence[Stream],
        heart: HeartLoop | None = None,
    ) -> None:
        self._connect = connect
        self._heart = heart or SameLoop()
        self._config = config
        self._clock = clock
        self.name = name
        self.worker_type = worker_type
        self.address = address
        self._version = version
        self._streams = streams
        self._connection: Connection | None = None
        self._beaten_at = 0.0
        self._unbroken_since = 0.0
        self._is_over = False
        self.lease = 0
        self.ready = False
        self.draining = False
        self.slots_version = -1
        #: The deaths of processes by requests, as last read.
        self.deaths = Deaths()
        self._work: BlockingWork | None = None
        self._noted_work: BlockingWork | None = None
        #: Set when an operator drains this process.
        self.asked_to_leave = asyncio.Event()
        self._beat_now = asyncio.Event()

    async def join(self, ever_seen: Mapping[str, int] | None = None) -> int:
        """Take a new lease and return its number. Fence the older incarnations with the same name.

        ever_seen: the greatest positions and lease number that this process has seen since its start.
        Raises UnsafeCommits when the database acknowledges commits too early.
        """
        return await self._heart.run(self._join_or_drop(ever_seen))

    async def _join_or_drop(self, ever_seen: Mapping[str, int] | None) -> int:
        try:
            return await self._join(ever_seen)
        except BaseException:
            self._drop_connection()
            raise

    async def _join(self, ever_seen: Mapping[str, int] | None) -> int:
        conn = self._connection = await self._connect()
        self.lease = await leases.insert_lease(
            conn,
            process=self.name,
            type_=self.worker_type,
            host=socket.gethostname(),
            pid=os.getpid(),
            address=self.address,
            version=self._version,
            sequences={s.name: s.sequence if s.catch_up else "" for s in self._streams},
            ever_seen=ever_seen,
        )
        for older in await leases.get_older_incarnations(conn, self.name, self.lease):
            logger.warning("Fencing lease %d, of an older incarnation of %s", older, self.name)
            await leases.fence(conn, older)
        self.deaths = await get_deaths(conn)
        self._beaten_at = self._unbroken_since = self._clock.monotonic_s()
        return self.lease

    async def run(
        self,
        positions: Callable[[], Mapping[str, int]],
        on_slots: Callable[[], None],
        on_fenced: Callable[[str], None],
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a heartbeat every `heartbeat_s` until cancelled, or until the lease is over.

        on_slots: the slot table changed.
        on_fenced: the lease is gone.
        on_silence: a heartbeat had no answer in time, so messages on other connections may be lost as well.
        `positions` runs on the heart's loop, the others on the main loop.
        """
        await self._heart.run(self._run(positions, on_slots, on_fenced, on_silence))

    async def _run(
        self,
        positions: Callable[[], Mapping[str, int]],
        on_slots: Callable[[], None],
        on_fenced: Callable[[str], None],
        on_silence: Callable[[], None],
    ) -> None:
        while not self._is_over:
            try:
                await self._beat(positions(), on_slots, on_fenced)
            except PASSING_ERRORS as error:
                logger.warning("No heartbeat: %s", type(error).__name__)
                self._drop_connection()
                if isinstance(error, TimeoutError):
                    self._heart.call_back(on_silence)
                self._unbroken_since = self._clock.monotonic_s()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.heartbeat_s):
                    await self._beat_now.wait()
            self._beat_now.clear()

    def start_serving(self) -> None:
        """Tell the fleet at once that this process can get slots and requests."""
        self.ready = True
        self._heart.call(self._beat_now.set)

    def start_draining(self) -> None:
        """Tell the fleet, at once and with each heartbeat, that this process wants no more slots and requests."""
        self.draining = True
        self._heart.call(self._beat_now.set)

    def note_work(self, work: BlockingWork | None) -> None:
        """Note in the database what blocks the main loop; None: nothing does any more. Runs on the heart's loop."""
        self._work = work
        self._beat_now.set()

    @property
    def in_good_standing(self) -> bool:
        """True if this process may answer from memory. It is checked at each answer, not by a timer."""
        return not self._is_over and self._clock.monotonic_s() - self._beaten_at < self._config.dead_after_s

    @property
    def unbroken_since(self) -> float | None:
        """The start of the period in which each heartbeat was recorded in time, None outside of good standing.

        The leader judges other processes only if the database could hear them: after an outage, however short, every
        process was silent for as long, and for up to two heartbeats more.
        """
        return self._unbroken_since if self.in_good_standing else None

    async def leave(self) -> None:
        """End the lease. Nothing more is written, and our slots are free at once.

        This takes a new connection: the present one may hang, and be the reason for leaving.
        """
        await self._heart.run(self.leave_now())

    async def leave_now(self, died_of: BlockingWork | None = None) -> None:
        """End the lease, as `leave` does. It runs on the heart's loop: the main loop may be stuck.

        died_of: the request in which it is stuck.
        """
        self._is_over = True
        self._drop_connection()
        conn: Connection | None = None
        try:
            async with asyncio.timeout(3.0):
                conn = await self._connect()
                if died_of is not None:
                    await note_work(conn, self.lease, died_of)
                await leases.fence(conn, self.lease)
                await conn.close()
        except PASSING_ERRORS as error:
            if conn is not None:
                conn.terminate()
            logger.warning("The lease could not be ended (%s). The leader will fence it", type(error).__name__)

    async def _beat(
        self, positions: Mapping[str, int], on_slots: Callable[[], None], on_fenced: Callable[[str], None]
    ) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        started = self._clock.monotonic_s()
        async with asyncio.timeout(self._config.dead_after_s):
            answer = await leases.record_heartbeat(
                self._connection, self.lease, ready=self.ready, draining=self.draining, positions=positions
            )
        if not answer.alive:
            # Before the main loop learns of it: it may be busy, and about to answer from memory.
            self._is_over = True
            self._heart.call_back(lambda: on_fenced("its lease was revoked"))
            return
        # The database recorded it some time after it was sent: the time of sending errs on the safe side.
        if started - self._beaten_at > 1.5 * self._config.heartbeat_s:
            self._unbroken_since = started
        self._beaten_at = started
        if answer.leaves:
            self._heart.call_back(self.asked_to_leave.set)
        if answer.slots_version != self.slots_version:
            self.slots_version = answer.slots_version
            self._heart.call_back(on_slots)
        async with asyncio.timeout(self._config.dead_after_s):
            await self._exchange_notes(self._connection, answer.blocking)

    async def _exchange_notes(self, conn: Connection, blocking: bool) -> None:
        """Note the work that blocks the main loop, and read of which requests other processes died."""
        if self._work is not self._noted_work:
            noted = self._work
            await note_work(conn, self.lease, noted)
            self._noted_work = noted
        if blocking or self.deaths.by_user:
            self.deaths = await get_deaths(conn)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
