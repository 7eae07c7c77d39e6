"""The probe: a stream that advances in the database but not on the bus raises a metric and a log line."""

import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from replication.streams import EVENTS, RECEIPTS, TYPING
from replication.streams.announcer import Announcer, Ticker
from replication.streams.fenced_writer import SeenPositions
from replication.streams.follower import Follower
from shared.config.sections import Replication
from shared.core.identifiers import UserId
from shared.metrics.replication import ProbeMetrics, ReplicationMetrics
from shared.runtime.tasks import TaskGroup
from shared.storage.fleet.leases import record_heartbeat
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from tests.rigs.synchrotron import fleet
from workers.main.stream_probe import STALLED_AFTER_S, Comparison, Progress, StreamProbe

_WRITER = 7


def test_only_writers_that_stay_unheard_are_stalled() -> None:
    probe = Comparison()

    def look(now_s: float, reached: int, last: int) -> bool:
        return _WRITER in probe.compare(now_s, {_WRITER: Progress(reached, last)})

    probe.announced(_WRITER, Progress(10, 10))
    assert not look(0, 10, 10)
    # A busy writer is always a little behind, but it advances.
    for second in range(1, 20):
        assert not look(second, 10 + second, 10 + second)
        probe.announced(_WRITER, Progress(10 + second, 10 + second))
    # Its rows stop on the bus while its "complete up to" advances: stored rows are not announced.
    assert not look(20, 40, 35)
    probe.announced(_WRITER, Progress(40, 29))
    assert not look(20 + STALLED_AFTER_S - 0.1, 41, 36)
    assert look(20 + STALLED_AFTER_S, 41, 36)
    probe.announced(_WRITER, Progress(41, 36))
    assert not look(24, 41, 36)
    # Nothing of it reaches the bus.
    assert not look(30, 50, 36)
    assert look(30 + STALLED_AFTER_S, 51, 36)
    # Its lease has ended, so it is not stalled.
    assert probe.compare(40, {}) == {}
    assert not look(41, 60, 36)


@pytest.mark.parametrize("stream", [EVENTS.name, RECEIPTS.name, TYPING.name])
async def test_writer_with_lost_frames_and_ticks_is_reported(
    postgres: TestDatabase, caplog: pytest.LogCaptureFixture, stream: str
) -> None:
    """The writer's heartbeats continue. The probe reports the stall once per stream, and its end."""

    with caplog.at_level(logging.INFO):
        async with fleet(postgres.dsn) as world:
            persister, clock, registry, tasks = world.persisters[0], MockClock(), CollectorRegistry(), TaskGroup()
            anything: Any = world.bus
            follower = Follower(
                world.database, anything, SeenPositions(), Replication(), clock, tasks, ReplicationMetrics(registry)
            )
            leading = True
            probe = StreamProbe(world.database, follower, clock, ProbeMetrics(registry), lambda: leading)
            await follower.start()
            room_id = await persister.user("alice").create_room()
            others: Announcer = world.announcer
            tickers = [
                (Ticker(persister.foundation.announcer, persister.foundation.writer, [EVENTS], 0.0), persister),
                (Ticker(others, world.writer, [RECEIPTS, TYPING], 0.0), None),
            ]

            async def live() -> None:
                """Advance the writers by a second: a tick, a heartbeat, and a look of the probe."""
                clock.advance(1.0)
                async with world.database.connection() as conn:
                    for ticker, of in tickers:
                        lease = others.lease if of is None else of.foundation.lease
                        ticker.positions = ticker._announcer.tick(ticker._streams, ticker._writer.complete_up_to)
                        await record_heartbeat(conn, lease, ready=True, draining=False, positions=ticker.positions)
                await probe.compare()

            def stalled(name: str) -> float:
                return registry.get_sample_value("skep_stream_stalled_writers", {"stream": name}) or 0.0

            def lines(text: str) -> int:
                return sum(text in each.getMessage() and stream in each.getMessage() for each in caplog.records)

            async def write() -> None:
                if stream == EVENTS.name:
                    await persister.user("alice").send(room_id, "x")
                elif stream == RECEIPTS.name:
                    sent = await persister.user("alice").send(room_id, "x")
                    await world.set_receipt(room_id, UserId("@alice:x"), sent.event_id)
                else:
                    world.set_typing(room_id, UserId("@alice:x"), 1 << 50)

            for _ in range(6):
                await write()
                await live()
            assert stalled(stream) == 0 and lines("is stalled") == 0
            world.bus.holding = True  # all of it will be dropped
            for _ in range(6):
                await write()
                await live()
            assert stalled(stream) == 1 and lines("is stalled") == 1
            leading = False
            await probe.compare()
            assert stalled(stream) == 0
            leading = True
            for _ in range(5):
                await live()
            assert stalled(stream) == 1
            world.bus.drop_held()
            for _ in range(3):
                await live()
            assert stalled(stream) == 0 and lines("moves again") == 2
            await tasks.close()
