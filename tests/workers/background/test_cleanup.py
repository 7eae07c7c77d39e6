"""The cleanup job deletes what is old, and nothing else."""

from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from shared.config.sections import Accounts
from shared.metrics.background import BackgroundMetrics
from shared.storage.engine.pool import Database, connector
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from workers.background.cleanup import Cleanup

_DAY_MS = 86_400_000
_NOW_MS = 1_790_000_000_000


_ROWS: dict[str, tuple[str, list[tuple[Any, ...]], int]] = {
    # table: (columns, rows, how many are old)
    "uia_sessions": (
        "session_id, operation, request, created_ms",
        [("a", "x", b"{}", _NOW_MS - 901_000), ("b", "x", b"{}", _NOW_MS)],
        1,
    ),
    "registration_nonces": ("nonce, created_ms", [("a", _NOW_MS - 301_000), ("b", _NOW_MS)], 1),
    "client_transactions": (
        "room_nid, key, event_id, created_ms",
        [*((n, b"k", "$e", _NOW_MS - 3 * _DAY_MS) for n in range(700)), (1, b"new", "$e", _NOW_MS - _DAY_MS)],
        700,
    ),
    "session_changes": (
        "writer, position, user_id, changed_ms",
        [(1, 1, "@a:b", _NOW_MS - 2 * _DAY_MS), (1, 2, "@a:b", _NOW_MS)],
        1,
    ),
    "to_device_transactions": (
        "user_id, device_id, key, writer, created_ms",
        [("@a:b", "D", b"old", 1, _NOW_MS - 3 * _DAY_MS), ("@a:b", "D", b"new", 1, _NOW_MS - _DAY_MS)],
        1,
    ),
    "device_list_changes": (
        "writer, position, user_id, changed_ms",
        # The newest stays, however old: without it no token could be told to be too old.
        [(1, 1, "@a:b", 0), (1, 2, "@a:b", 0), (1, 3, "@a:b", _NOW_MS - 15 * _DAY_MS)],
        2,
    ),
    "one_time_key_changes": (
        "writer, position, user_id, device_id, changed_ms",
        [(1, 1, "@a:b", "D", _NOW_MS - 3 * _DAY_MS), (1, 2, "@a:b", "D", _NOW_MS)],
        1,
    ),
    "one_time_keys": (
        "user_id, device_id, algorithm, key_id, uploaded, hash, json, claimed_ms",
        [
            ("@a:b", "D", "a", "claimed long ago", 1, b"", None, _NOW_MS - 91 * _DAY_MS),
            ("@a:b", "D", "a", "claimed", 1, b"", None, _NOW_MS - _DAY_MS),
            ("@a:b", "D", "a", "never claimed", 1, b"", b"{}", None),
        ],
        1,
    ),
    "login_addresses": (
        "user_id, address, used_ms",
        [("@a:b", "192.0.2.1", _NOW_MS - 181 * _DAY_MS), ("@a:b", "192.0.2.2", _NOW_MS - 179 * _DAY_MS)],
        1,
    ),
    "set_aside": (
        "step, item, reason, at",
        [
            ("search index", "$old", "x", datetime.fromtimestamp(_NOW_MS / 1000 - 91 * 86_400, UTC)),
            ("search index", "$new", "x", datetime.fromtimestamp(_NOW_MS / 1000 - 89 * 86_400, UTC)),
        ],
        1,
    ),
    "refresh_tokens": (
        "token_hash, user_id, device_id, successor, created_ms",
        [(b"r1", "@a:b", "D", b"r2", 0), (b"r2", "@a:b", "D", None, 0)],
        0,
    ),
    "access_tokens": (
        "token_hash, user_id, device_id, expires_ms, refresh_hash, created_ms",
        [
            (b"replaced", "@a:b", "D", _NOW_MS - 2 * _DAY_MS, b"r1", 0),
            (b"renewable", "@a:b", "D", _NOW_MS - 2 * _DAY_MS, b"r2", 0),  # it may still log in softly
            (b"dead", "@a:b", "D", _NOW_MS - 2 * _DAY_MS, None, 0),
            (b"young", "@a:b", "D", _NOW_MS - 1000, None, 0),
            (b"forever", "@a:b", "D", None, None, 0),
        ],
        2,
    ),
}


async def test_cleanup(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    for table, (columns, rows, _) in _ROWS.items():
        holes = ", ".join(f"${n}" for n in range(1, len(columns.split(", ")) + 1))
        for row in rows:
            await database.execute(f"INSERT INTO {table} ({columns}) VALUES ({holes})", *row)
    deleted = await _cleanup(database).clean_once()
    for table, (_, rows, old) in _ROWS.items():
        assert deleted.get(table, 0) == old, table
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == len(rows) - old
    assert await database.fetchval("SELECT count(*) FROM access_tokens WHERE token_hash = 'dead'") == 0
    await database.close()


def _cleanup(database: Database) -> Cleanup:
    return Cleanup(database, MockClock(_NOW_MS / 1000), Accounts(), BackgroundMetrics(CollectorRegistry()))


async def test_table_that_fails_stops_no_other_and_gets_smaller_batches(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    await database.execute("""
        CREATE FUNCTION too_many() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM gone) > 100 THEN RAISE EXCEPTION 'too slow' USING ERRCODE = '57014'; END IF;
            RETURN NULL; END $$
    """)
    await database.execute("""
        CREATE TRIGGER too_many AFTER DELETE ON uia_sessions REFERENCING OLD TABLE AS gone
            EXECUTE FUNCTION too_many()
    """)
    await database.execute("""
        INSERT INTO uia_sessions (session_id, operation, request, created_ms)
        SELECT n::text, 'x', '{}', 0 FROM generate_series(1, 300) AS n
    """)
    await database.execute("INSERT INTO login_addresses VALUES ('@a:b', '192.0.2.1', 0)")
    cleanup = _cleanup(database)
    first = await cleanup.clean_once()
    assert (first["uia_sessions"], first["login_addresses"]) == (0, 1)
    deleted = [(await cleanup.clean_once())["uia_sessions"] for _ in range(3)]
    assert sum(deleted) == 300, deleted
    await database.close()
