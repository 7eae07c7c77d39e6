"""`skep check rooms`, beside a running fleet and on rooms with forks."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from shared.config.addresses import database_dsn
from shared.config.load import load_config
from shared.core.errors import MatrixError
from shared.core.identifiers import RoomId
from shared.operations.check_rooms import check_room
from shared.storage.engine.pool import Database, connector
from shared.storage.events.commit import commit_events
from tests.fix_fleet import ROOT, RunningFleet
from tests.fix_servers import TestDatabase
from tests.fleet.people import Person, register
from tests.graph_rooms import SERVER, GraphRoom, forked_room
from tests.room_checks import assert_rooms_agree, room_faults
from tests.storage.one_writer import writing

_ROOM_NID = "(SELECT room_nid FROM rooms WHERE room_id = $1)"


def _check(fleet: RunningFleet, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploy.command.main", "check", "rooms", "--config", str(fleet.config), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def _sql(fleet: RunningFleet, statement: str, *args: Any) -> None:
    async def run() -> None:
        conn = await asyncpg.connect(database_dsn(load_config(fleet.config).database))
        await conn.execute(statement, *args)
        await conn.close()

    asyncio.run(run())


def _lively_room(me: Person, other: Person, version: str) -> str:
    """Return a room with two members, state changes, a redaction and a ban."""
    room = me.create_room(room_version=version, name="bees")
    place = quote(room, safe="")
    other.ask("POST", f"/rooms/{place}/join", {})
    sent = other.send(room, f"c{version}", {"msgtype": "m.text", "body": "hum"}).json()["event_id"]
    me.ask("PUT", f"/rooms/{place}/state/m.room.topic/", {"topic": "honey"})
    me.ask("PUT", f"/rooms/{place}/state/m.room.topic/", {"topic": "wax\u0000"})
    me.ask("PUT", f"/rooms/{place}/redact/{quote(sent)}/r{version}", {})
    me.ask("POST", f"/rooms/{place}/ban", {"user_id": other.user_id})
    return room


def test_check_rooms_beside_a_running_fleet(fleet: RunningFleet) -> None:
    me, other = register(fleet, "check-me"), register(fleet, "check-other")
    rooms = [_lively_room(me, other, version) for version in ("1", "6", "10", "12")]
    done = _check(fleet, "--signatures", "--verbose", *rooms)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*(f"{room}  agrees" for room in rooms), "4 rooms checked, all agree."]
    _sql(fleet, f"DELETE FROM current_state WHERE type = 'm.room.topic' AND room_nid = {_ROOM_NID}", rooms[2])
    wrong = _check(fleet, *rooms)
    assert wrong.returncode == 1
    first, advice, last = wrong.stdout.splitlines()
    assert first.startswith(f"{rooms[2]}  current_state  $")
    assert "m.room.topic" in first
    assert "state_changes" in advice
    assert last == "4 rooms checked, 1 do not agree: 1 current_state."
    [told] = [json.loads(line) for line in _check(fleet, "--json", *rooms).stdout.splitlines()]
    assert (told["room_id"], [each["kind"] for each in told["findings"]]) == (rooms[2], ["current_state"])
    restore = f"""
        INSERT INTO current_state SELECT DISTINCT ON (type) room_nid, type, state_key, event_nid, writer, position
        FROM state_changes WHERE type = 'm.room.topic' AND room_nid = {_ROOM_NID} ORDER BY type, ordinal DESC
    """
    _sql(fleet, restore, rooms[2])
    sampled = _check(fleet, "--sample", "2", "--verbose")
    assert (sampled.returncode, sampled.stdout.count("  agrees\n")) == (0, 2)


def test_check_of_unknown_room_fails(fleet: RunningFleet) -> None:
    done = _check(fleet, "!nothing:a.example")
    assert done.returncode == 1
    assert "There is no room !nothing:a.example" in done.stderr


@asynccontextmanager
async def _stored_room(dsn: str, room: GraphRoom) -> AsyncIterator[asyncpg.Connection]:
    async with writing(dsn) as writer:
        await commit_events(writer.write, room.batch())
        yield writer.conn


#: A change by hand -> the only kind of finding that it causes.
_CHANGES = {
    "UPDATE events SET redacted_by = NULL": "redacted_by",
    "UPDATE events SET state_nid = NULL WHERE ordinal = 10": "state_before",
    "UPDATE state_snapshots SET steps = 9 WHERE steps = 2": "snapshot",
    "UPDATE forward_extremities SET event_nids = '{7}'": "extremities",
    "DELETE FROM gaps": "nothing",
    "UPDATE gaps SET missing = ARRAY(SELECT event_id FROM events WHERE ordinal = 3)": "gap",
    "DELETE FROM state_changes WHERE type = 'm.room.avatar'": "line",
    "DELETE FROM current_state WHERE type = 'm.room.avatar'": "current_state",
    "UPDATE memberships SET ordinal = 1 WHERE user_id LIKE '@bob%'": "membership",
    "DELETE FROM awaited_redactions": "nothing",
    "UPDATE awaited_redactions SET redaction_nid = 1": "awaited_redaction",
    "UPDATE client_transactions SET event_id = '$x' WHERE key = '0'": "transaction",
    "UPDATE events SET json = '{}' WHERE ordinal = 3": "json",
}


async def test_rows_changed_by_hand_are_found(postgres: TestDatabase) -> None:
    room, _ = forked_room("11")
    async with _stored_room(postgres.dsn, room) as conn:
        assert await room_faults(postgres.dsn) == {}
        await conn.execute("SET session_replication_role = replica")  # without foreign keys, rows can be restored
        for change, kind in _CHANGES.items():
            table = change.removeprefix("DELETE FROM ").removeprefix("UPDATE ").split()[0]
            await conn.execute(f"CREATE TABLE saved AS TABLE {table}")
            await conn.execute(change)
            found = await room_faults(postgres.dsn)
            kinds = [each.kind for findings in found.values() for each in findings]
            assert kinds == ([] if kind == "nothing" else [kind]), (change, found)
            await conn.execute(f"DELETE FROM {table}; INSERT INTO {table} TABLE saved; DROP TABLE saved")
        assert await room_faults(postgres.dsn) == {}
    await assert_rooms_agree(postgres.dsn)


async def test_room_over_the_event_limit_is_not_checked(postgres: TestDatabase) -> None:
    room, _ = forked_room("10")
    async with _stored_room(postgres.dsn, room) as conn:
        database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
        room_id = room.create.room_id
        [finding] = await check_room(database, room_id, server_name=SERVER, max_events=10)
        assert (finding.kind, finding.is_note) == ("too_big", True)
        with pytest.raises(MatrixError):
            await check_room(database, RoomId("!\x00"), server_name=SERVER)
        await conn.execute("UPDATE rooms SET room_version = 'org.example.new'")
        [finding] = await check_room(database, room_id, server_name=SERVER)
        assert finding.kind == "room_row"
        await database.close()
