"""The number of parked rooms, which fires an alert, and the command that lists them."""

import argparse

import pytest
from prometheus_client import CollectorRegistry

from deploy.command.rooms import room as room_command
from shared.metrics.fleet import ParkedRoomsMetrics
from shared.storage.rooms.parked import park_room
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.rigs.worker import make_config
from workers.main.parked_rooms_watch import ParkedRoomsWatch


async def test_parked_room_is_counted_and_listed(postgres: TestDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    async with event_persister(postgres.dsn) as persister:
        database, write = persister.foundation.database, persister.foundation.writer.write
        room_id = await persister.user("alice").create_room()
        [row] = await persister.sql("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
        registry, leads = CollectorRegistry(), True
        watch = ParkedRoomsWatch(database, ParkedRoomsMetrics(registry), lambda: leads)
        await watch.check()
        assert registry.get_sample_value("skep_fleet_rooms_parked") == 0
        await park_room(write, row[0], "too many forks")
        await watch.check()
        assert registry.get_sample_value("skep_fleet_rooms_parked") == 1
        leads = False
        await watch.check()
        assert registry.get_sample_value("skep_fleet_rooms_parked") == 0, "only the leader reports it"
        assert await room_command._parked(database, make_config(), argparse.Namespace()) == 0
        listed = capsys.readouterr().out
        assert room_id in listed and "too many forks" in listed and "1 room is parked." in listed
