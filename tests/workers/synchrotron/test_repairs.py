"""Repairs of gaps that are found while the database is unavailable."""

import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from shared.core.errors import Unavailable
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet


async def test_repair_waits_for_the_database(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        reader = world.synchrotrons[0]
        monkeypatch.setattr(
            reader.foundation.follower, "_config", type("_", (), {"tick_s": 0.05, "silent_after_s": 60})
        )
        snapshot, failures = reader.foundation.database.snapshot, 2

        def away() -> AbstractAsyncContextManager[Any]:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("The database is away")
            return snapshot()

        monkeypatch.setattr(reader.foundation.database, "snapshot", away)
        world.bus.holding = True
        await alice.writes.send(room_id, "lost")
        world.bus.drop_held()
        with caplog.at_level(logging.WARNING):
            await alice.writes.send(room_id, "next")
            bodies: list[Any] = []
            while "lost" not in bodies or failures:
                answer = await alice.sync()
                timeline = answer["rooms"]["join"][room_id]["timeline"]["events"]
                bodies = [event["content"].get("body") for event in timeline]
        assert bodies[-2:] == ["lost", "next"]
        assert failures == 0
        lines = [record for record in caplog.records if "repair of stream" in record.getMessage().lower()]
        assert len(lines) == 2
        assert not any(record.exc_info for record in caplog.records)
