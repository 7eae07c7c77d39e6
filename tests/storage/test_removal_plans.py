"""The plans of the statements of removal: none scans a whole table."""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from shared.storage.engine.fenced import ALL_STATEMENTS
from shared.storage.removal.delete_room import ROOM_TABLES
from tests.fix_servers import TestDatabase

_ARGUMENTS = {
    "purge_start": (7, 300, 100),
    "purge_history": (7, 500),
    "purge_aside": (7, 500),
    "purge_live": (7, 500),
    "purge_compact": (7, 500, 600.0),
    "purge_sweep": (7, 500, 600.0, 0),
    "purge_finish": (7, 600.0),
    "purge_push_counters": (7, 500, -1, "", 0),
    "purge_push_rows": (7, 500),
    "purge_retention": ([7, 8], [100, 100], 1000, 10_000, 100),
    "reclaim_snapshots": (7, -1, 7, 500, True),
    "delete_room_mark": ("!7:b", False),
    "delete_room_row": (7,),
    **{f"delete_room_{table}": (7, 500) for table in ROOM_TABLES if table != "state_snapshots"},
}
#: 1500 other rooms with some rows each, and room 7 with more.
_ROWS = """
    INSERT INTO rooms (room_nid, room_id, room_version, creator, created_ms)
      SELECT n, '!' || n || ':b', '11', '@a:b', 1 FROM generate_series(1, 1500) n;
    UPDATE rooms SET purge_to = 250, first_ordinal = 10, retired_at = '2000-01-01' WHERE room_nid = 7;
    INSERT INTO state_snapshots (room_nid, nid, parent, base, steps, added, removed)
      SELECT n, n * 10 + k, CASE WHEN k > 0 THEN n * 10 END, CASE WHEN k = 0 THEN 5 END, k, ARRAY[n * 1000 + k], '{}'
      FROM generate_series(1, 1500) n, generate_series(0, 5) k;
    INSERT INTO events (room_nid, event_nid, event_id, writer, position, ordinal, depth, type, state_key, sender,
                        origin_server_ts, status, prev_nids, auth_nids, json, anchor, back, state_nid)
      SELECT n, n * 1000 + k, '$' || n * 1000 + k, 1, n * 1000 + k,
             CASE WHEN k % 10 IN (0, 1) THEN NULL ELSE k END, k, 'x', CASE WHEN k % 3 = 0 THEN k::text END, '@a:b', k,
             CASE WHEN k % 10 = 0 THEN 1 WHEN k % 10 = 3 THEN 4 ELSE 0 END, '{}', '{}', '{}',
             CASE WHEN k % 10 = 1 THEN k END, CASE WHEN k % 10 = 1 THEN 1 END, CASE WHEN k % 10 = 2 THEN n * 10 END
      FROM generate_series(1, 1500) n, generate_series(1, CASE WHEN n = 7 THEN 400 ELSE 30 END) k;
    INSERT INTO search_words SELECT room_nid, event_nid, 0, 'bees' FROM events WHERE event_nid % 10 = 5;
    INSERT INTO user_directory_rooms SELECT room_nid FROM rooms;
    INSERT INTO forward_extremities SELECT n, ARRAY[n * 1000 + 30] FROM generate_series(1, 1500) n;
    INSERT INTO state_changes
      SELECT n, 'x', k::text, k, n * 1000 + k, NULL, 1, k FROM generate_series(1, 1500) n, generate_series(3, 30, 3) k;
    INSERT INTO current_state
      SELECT n, 'x', k::text, n * 1000 + k, 1, k FROM generate_series(1, 1500) n, generate_series(3, 30, 3) k;
    INSERT INTO memberships
      SELECT n, '@' || k || ':b', 'join', k, 's', k, 1, 1, true
      FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO room_aliases SELECT '#' || n, n, 'c', 1 FROM generate_series(1, 1500) n;
    INSERT INTO client_transactions
      SELECT n, k::text::bytea, 'e', 1 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO receipts
      SELECT n, '@' || k, 'r', '', 'e', 1, 1, 1, n * 10 + k FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO account_data
      SELECT '@' || k, '!' || n || ':b', 't', '{}', 1, 1 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO delayed_events
      SELECT n || '-' || k, 0, '@a:b', n, 'x', NULL, '{}', NULL, NULL, 1, 1, 1, NULL, NULL, NULL, NULL
      FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO push_counters
      SELECT n, g, '', k, k, 0 FROM generate_series(1, 1500) n, generate_series(0, 1) g, generate_series(1, 5) k;
    INSERT INTO push_exceptions
      SELECT n, '@' || k, k, '', 1, 0 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO push_members SELECT n, '@' || k, k, 1 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO push_own SELECT n, '@' || k, '', k FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO push_redacted SELECT n, 0, k, '', 1, 0, 9 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO push_redacted_users
      SELECT n, k, '@' || k, '', 1, 0, 9 FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO thread_subscriptions
      SELECT '@' || k, n, 't', true, false, 0, 1, n * 10 + k FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO sticky_events
      SELECT n, k, k, 1, n * 10 + k, k FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO user_usage SELECT '@' || n, 1 FROM generate_series(1, 1500) n;
    INSERT INTO gaps SELECT n, k, '{}' FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    INSERT INTO awaited_redactions SELECT n, k::text, k FROM generate_series(1, 1500) n, generate_series(1, 5) k;
    UPDATE rooms SET deleted_id = room_id WHERE room_nid = 9;
    ANALYZE;
"""


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_no_removal_statement_scans_a_whole_table(postgres: TestDatabase, mode: str) -> None:
    named = {name for name in ALL_STATEMENTS if name.startswith(("purge_", "delete_room_", "reclaim_"))}
    assert named == set(_ARGUMENTS)
    conn = await asyncpg.connect(postgres.dsn, statement_cache_size=0)
    await conn.execute(_ROWS)
    await conn.execute(f"SET plan_cache_mode = {mode}")
    for name, arguments in _ARGUMENTS.items():
        async with conn.transaction():
            sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {ALL_STATEMENTS[name].sql}"
            [row] = await conn.fetch(sql, 0, *arguments)
        for node in _nodes(json.loads(row[0])[0]["Plan"]):
            assert node["Node Type"] != "Seq Scan" or node["Relation Name"] == "leases", (name, node)
    await conn.close()
