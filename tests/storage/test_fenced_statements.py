"""Fenced statements: the plan of each one has the fence below all of its writes."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

import shared.storage
from shared.storage.engine.fenced import ALL_STATEMENTS, FencedStatement, fenced_statement
from shared.storage.engine.statements import NoParameters
from tests.fix_servers import TestDatabase

for module in pkgutil.walk_packages(shared.storage.__path__, "shared.storage."):
    importlib.import_module(module.name)

_WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE\s+\w+\s+(?:\w+\s+)?SET|DELETE\s+FROM)\b", re.IGNORECASE)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


async def _plan(conn: asyncpg.Connection, statement: FencedStatement[Any]) -> dict[str, Any]:
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", statement.sql))
    await conn.execute(f"PREPARE explained AS {statement.sql}")
    values = ", ".join(["NULL"] * parameters)
    [row] = await conn.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE explained ({values})")
    await conn.execute("DEALLOCATE explained")
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan


async def test_each_write_has_the_fence_below_it(postgres_module: TestDatabase) -> None:
    assert len(ALL_STATEMENTS) > 3
    conn = await asyncpg.connect(postgres_module.dsn)
    await conn.execute("SET plan_cache_mode = force_generic_plan")  # a custom plan leaves out parts with NULLs
    for statement in ALL_STATEMENTS.values():
        plan = await _plan(conn, statement)
        fences = [node for node in _nodes(plan) if node.get("Subplan Name") == "CTE fence"]
        assert [node["Node Type"] for node in fences] == ["LockRows"], statement.name
        writes = [node for node in _nodes(plan) if node["Node Type"] == "ModifyTable"]
        # PostgreSQL leaves out parts whose rows are not used, so that the plan has fewer writes than the text.
        assert len(writes) == len(_WRITES.findall(statement.sql)), statement.name
        for write in writes:
            scans = [node for node in _nodes(write) if node.get("CTE Name") == "fence"]
            assert scans, f"{statement.name}: a write of {write.get('Relation Name')} without the fence"
    await conn.close()


def test_part_without_the_fence_is_refused() -> None:
    with pytest.raises(ValueError, match="without taking rows from the fence"):
        fenced_statement("unfenced", NoParameters, {"a": "DELETE FROM rooms WHERE room_nid = 1"})
    with pytest.raises(ValueError, match="declared twice"):
        fenced_statement("commit_events", NoParameters, {})
