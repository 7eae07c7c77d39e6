"""State resolution: small conflicts on the event loop, all others in threads.

There are three places, tried in this order. On the loop itself, if all events are at hand and it takes a few
milliseconds. In the threads of the quick lane, which load missing events. In the big lane: one thread for resolutions
that grew out of the quick lane or are known to be big. It may work for seconds, and the quick lane never waits for it.
Loaded events move on with their resolution.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from shared.core.errors import Unavailable
from shared.core.identifiers import EventId
from shared.core.state_resolution import Overlay, StateKey, resolve_overlays
from shared.metrics.resolution import ResolutionMetrics
from shared.runtime.clock import Clock
from shared.storage.events.auth_chains import ChainEvent
from workers.event_persister.graph.resolution_events import (
    EventCache,
    NoMemory,
    NotAtHand,
    ResolutionBudget,
    RoomEvents,
    RoomForResolution,
    Stopped,
    TooLong,
    TooMuch,
)

__all__ = ["Load", "Resolver", "ResolverBounds", "RoomForResolution"]

#: (room, event ids, number of events) -> rows, as `get_auth_chain_page`.
Load: TypeAlias = Callable[[int, Sequence[EventId], int], Awaitable[Sequence[ChainEvent]]]
Resolution: TypeAlias = dict[StateKey, EventId | None]

_LOOP_S = 0.005
_LOOP_ENTRIES = 200  # of overlays: a few milliseconds at most before the first look-up
_QUICK_ENTRIES = 2000
_SWITCH_S = 0.0005  # how long a thread may hold the interpreter while the loop needs it
_NO_FULL_COLLECTION = 1_000_000  # younger collections before the next full one


@dataclass(frozen=True, slots=True)
class ResolverBounds:
    """Limits of resolution.

    cache_bytes: of loaded events of all rooms that are kept.
    max_waiting: resolutions that wait for a thread, per lane.
    quick_lookups: look-ups of events in the quick lane: some 0.2 s of CPU.
    max_events, max_s: of one resolution, its waiting included.
    max_bytes: of the events that all resolutions of the process hold.
    """

    cache_bytes: int = 64 << 20
    max_waiting: int = 200
    quick_lookups: int = 50_000
    max_events: int = 400_000
    max_bytes: int = 512 << 20
    max_s: float = 60.0


class _Lane:
    """Threads with a bounded queue. name: of the lane, and its label in metrics."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix=f"resolve-{name}")
        self.turns = asyncio.Semaphore(threads)
        self.waiting = 0


class _ThreadsAtWork:
    """Settings of the process while threads resolve, which keep the loop responsive.

    Threads give way to each other more often than usual. If not, the loop would wait for 5 ms each time that it comes
    back from the network. Full garbage collection is off: it would walk all events that a resolution holds, 0.1 s for
    300,000, and find no garbage among them.
    """

    def __init__(self) -> None:
        self._count = 0
        self._switch_s = 0.0
        self._thresholds = gc.get_threshold()

    def enter(self) -> None:
        if not self._count:
            self._switch_s, self._thresholds = sys.getswitchinterval(), gc.get_threshold()
            sys.setswitchinterval(_SWITCH_S)
            gc.set_threshold(self._thresholds[0], self._thresholds[1], _NO_FULL_COLLECTION)
        self._count += 1

    def leave(self) -> None:
        self._count -= 1
        if not self._count:
            sys.setswitchinterval(self._switch_s)
            gc.set_threshold(*self._thresholds)


class _Job:
    """A resolution in a thread, as seen from both sides."""

    def __init__(self) -> None:
        self.stopped = False
        self.loading: Future[Sequence[ChainEvent]] | None = None

    def stop(self) -> None:
        """Let the thread end at its next look-up. Called on the loop."""
        self.stopped = True
        if self.loading is not None:
            self.loading.cancel()


def _run_and_release(run: Callable[[], Resolution], events: RoomEvents) -> Resolution:
    """Run in the thread, and free the events there, so that the loop need not."""
    try:
        result = run()
    except NotAtHand:
        raise  # it continues in another place with the events that it has
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        events.release()
        raise
    events.release()
    return result


class Resolver:
    """Resolves states.

    load: reads events with their chains. The loop awaits it.
    threads: at least 2, one of them for big resolutions.
    `forget` must be called with the ids of events that were redacted or otherwise changed, and `close` at the end.
    """

    def __init__(
        self,
        load: Load,
        clock: Clock,
        metrics: ResolutionMetrics,
        *,
        threads: int = 2,
        bounds: ResolverBounds | None = None,
    ) -> None:
        self._load = load
        self._clock = clock
        self._metrics = metrics
        self._bounds = bounds or ResolverBounds()
        self._cache = EventCache(self._bounds.cache_bytes)
        self.budget = ResolutionBudget(self._bounds.max_bytes)
        self._quick = _Lane("quick", max(1, threads - 1))
        self._big = _Lane("big", 1)
        self._jobs: dict[_Job, Future[Resolution]] = {}
        self._at_work = _ThreadsAtWork()
        self._closed = False

    async def resolve(
        self, room: RoomForResolution, base: Mapping[StateKey, EventId], overlays: Sequence[Overlay]
    ) -> Resolution:
        """Return the resolution of the states, as an overlay upon base (`resolve_overlays`).

        base, overlays: must not change until this returns, since threads read them.
        Raises TooMuch, TooLong if the forks need more events, bytes or time than is allowed, NoMemory if other
        resolutions have taken the budget, and Unavailable if too many wait, if the database is away, or if this process
        ends.
        """
        events = RoomEvents(room, self._cache, max_events=self._bounds.max_events, budget=self.budget)
        started_s = self._clock.monotonic_s()

        def run() -> Resolution:
            return resolve_overlays(
                room.version,
                base,
                overlays,
                events.find,
                rejected=events.rejected,
                prefetch=events.expect,
                create=room.create,
            )

        entries = sum(map(len, overlays))
        lane = "loop"
        try:
            try:
                if entries > _LOOP_ENTRIES or len(overlays) > _LOOP_ENTRIES:
                    raise NotAtHand
                return self._on_loop(events, run)
            except NotAtHand:
                async with asyncio.timeout(self._bounds.max_s):
                    if entries <= _QUICK_ENTRIES:
                        lane = "quick"
                        try:
                            return await self._in_thread(self._quick, room, events, run)
                        except NotAtHand:
                            pass  # it grew too big for this place
                    lane = "big"
                    return await self._in_thread(self._big, room, events, run)
        except (TooMuch, NoMemory) as error:
            self._metrics.refused.labels("size" if isinstance(error, TooMuch) else "memory").inc()
            raise
        except TimeoutError:
            self._metrics.refused.labels("time").inc()
            raise TooLong("The room's forks take too long to be resolved", retry_after_s=60.0) from None
        finally:
            # A thread that has not noticed its end yet holds what it has for a moment longer.
            events.close()
            self._metrics.seconds.labels(lane).observe(self._clock.monotonic_s() - started_s)

    def forget(self, event_ids: Sequence[EventId]) -> None:
        """Drop events that were redacted. They are loaded again when they are needed."""
        self._cache.forget(event_ids)

    async def close(self, timeout_s: float = 5.0) -> None:
        """End all resolutions. Their callers get Unavailable. Waits for the threads, but not for ever."""
        self._closed = True
        for job in self._jobs:
            job.stop()
        ended = asyncio.gather(*map(asyncio.wrap_future, self._jobs.values()), return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended, timeout_s)
        for lane in (self._quick, self._big):
            lane.executor.shutdown(wait=False, cancel_futures=True)

    def _on_loop(self, events: RoomEvents, run: Callable[[], Resolution]) -> Resolution:
        end_s = self._clock.monotonic_s() + _LOOP_S

        def check(lookups: int) -> None:
            if self._clock.monotonic_s() > end_s:
                raise NotAtHand

        events.move(check, None)
        return run()

    async def _in_thread(
        self, lane: _Lane, room: RoomForResolution, events: RoomEvents, run: Callable[[], Resolution]
    ) -> Resolution:
        async with self._turn(lane):
            job = _Job()
            max_lookups = self._bounds.quick_lookups if lane is self._quick else sys.maxsize

            def check(lookups: int) -> None:
                if job.stopped:
                    raise Stopped
                if lookups > max_lookups:
                    raise NotAtHand

            loop = asyncio.get_running_loop()
            events.move(check, self._fetch(room.room_nid, job))
            done = self._jobs[job] = lane.executor.submit(_run_and_release, run, events)
            done.add_done_callback(lambda done: loop.call_soon_threadsafe(self._jobs.pop, job, None))
            try:
                return await asyncio.wrap_future(done)
            except asyncio.CancelledError:
                job.stop()
                raise
            except Stopped:
                raise Unavailable("This process ends") from None

    def _fetch(self, room_nid: int, job: _Job) -> Callable[[Sequence[EventId], int], Sequence[ChainEvent]]:
        loop = asyncio.get_running_loop()

        async def load(event_ids: Sequence[EventId], max_events: int) -> Sequence[ChainEvent]:
            rows = await self._load(room_nid, event_ids, max_events)
            self._metrics.pages.inc()
            self._metrics.loaded.inc(len(rows))
            return rows

        def fetch(event_ids: Sequence[EventId], max_events: int) -> Sequence[ChainEvent]:
            # No time limit here: the caller has one, and cancels this.
            job.loading = asyncio.run_coroutine_threadsafe(load(event_ids, max_events), loop)
            if job.stopped:
                job.loading.cancel()
            try:
                return job.loading.result()
            except concurrent.futures.CancelledError:
                raise Stopped from None

        return fetch

    @contextlib.asynccontextmanager
    async def _turn(self, lane: _Lane) -> AsyncIterator[None]:
        """Wait for a free thread."""
        if lane.waiting >= self._bounds.max_waiting:
            self._metrics.refused.labels("queue").inc()
            raise Unavailable("Too many state resolutions wait. Try again later")
        lane.waiting += 1
        self._metrics.waiting.labels(lane.name).inc()
        try:
            async with lane.turns:
                if self._closed:
                    raise Unavailable("This process ends")
                self._at_work.enter()
                try:
                    yield
                finally:
                    self._at_work.leave()
        finally:
            lane.waiting -= 1
            self._metrics.waiting.labels(lane.name).dec()
