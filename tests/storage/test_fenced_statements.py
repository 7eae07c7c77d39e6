"""Fenced statements: the plan of each one has the fence below all of its writes. Exceptions are listed here.

CONTRIBUTING.md says when a statement may write without the fence.
"""

import ast
import importlib
import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import shared.storage
from shared.storage.engine.fenced import ALL_STATEMENTS, FencedStatement, fenced_statement
from shared.storage.engine.statements import NoParameters, Statement
from tests.fix_servers import TestDatabase

for module in pkgutil.walk_packages(shared.storage.__path__, "shared.storage."):
    importlib.import_module(module.name)

_WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE\s+\w+\s+(?:\w+\s+)?SET|DELETE\s+FROM)\b", re.IGNORECASE)
_WRITTEN = re.compile(
    r"\b(?:INSERT\s+INTO|DELETE\s+FROM|(?<!DO )UPDATE(?=\s+\w+\s+(?:(?:AS\s+)?\w+\s+)?SET\b))\s+(\w+)", re.IGNORECASE
)
_PARAMETER = re.compile(r"(?<![:\w]):[a-z][\w.]*|\$\d+")

_LEASE = "a part of what leases are: a statement creates or ends one, or checks it by itself"
_ANY_PROCESS = "any process may write a row at any time: each statement compares and sets, or may be repeated"
_EXPIRED = "rows that have expired are deleted, and no process uses them any more"
_PROGRESS = "the statement runs in a transaction that holds the row with the job's progress"
#: The tables that statements without a fence write, and why they need none.
UNFENCED: Mapping[str, str] = {
    "access_tokens": _EXPIRED,
    "account_data": "the data of an erased account are deleted once its sessions have ended",
    "background_steps": _PROGRESS,
    "blocking_work": _LEASE,
    "client_transactions": _EXPIRED,
    "counters": _LEASE,
    "deactivations": _ANY_PROCESS,
    "delayed_events": _ANY_PROCESS,
    "device_list_changes": _EXPIRED,
    "devices": "only the time of the last request, and only a later one",
    "drains": _LEASE,
    "duties": _LEASE,
    "erased_users": _ANY_PROCESS,
    "filters": _ANY_PROCESS,
    "guest_removals": _ANY_PROCESS,
    "heartbeats": _LEASE,
    "leases": _LEASE,
    "login_addresses": _EXPIRED,
    "login_attempts": _ANY_PROCESS,
    "one_time_key_changes": _EXPIRED,
    "one_time_keys": _EXPIRED,
    "presence": "a saved copy for the next start; only a later state replaces one",
    "profile_changes": _ANY_PROCESS,
    "profiles": _ANY_PROCESS,
    "push_rules": "the data of an erased account are deleted once its sessions have ended",
    "refresh_tokens": "the predecessor of a token that its client has used is deleted",
    "registration_nonces": _ANY_PROCESS,
    "registration_tokens": _ANY_PROCESS,
    "reports": _ANY_PROCESS,
    "room_aliases": _ANY_PROCESS,
    "room_upgrades": _ANY_PROCESS,
    "rooms": "only whether the directory lists the room",
    "schema_migrations": "migrations run under a lock of the database, before there are leases",
    "search_progress": _PROGRESS,
    "search_words": _PROGRESS,
    "server_key_failures": _ANY_PROCESS,
    "server_keys": _ANY_PROCESS,
    "session_changes": _EXPIRED,
    "set_aside": _PROGRESS,
    "settings_to_copy": _ANY_PROCESS,
    "sliding_states": _ANY_PROCESS,
    "slots": _LEASE,
    "sticky_events": _EXPIRED,
    "thread_subscriptions": "the data of an erased account are deleted once its sessions have ended",
    "to_device_messages": "the device has acknowledged what is deleted",
    "to_device_transactions": _EXPIRED,
    "uia_sessions": _ANY_PROCESS,
    "user_directory": _PROGRESS,
    "user_directory_progress": _PROGRESS,
    "user_directory_queue": _PROGRESS,
    "user_directory_rooms": _PROGRESS,
    "users": "a new account, or a hash that replaces the one that was read",
    "writers": _LEASE,
}
#: Functions whose text writes without the fence. The results of the first are constants of its module.
_IN_FUNCTIONS = {"shared.storage.fleet.pending_work._claim", "shared.storage.engine.schema_version.migrate"}


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


def test_each_table_written_without_the_fence_is_a_known_exception() -> None:
    fenced = "\n".join(_normal(statement.sql) for statement in ALL_STATEMENTS.values())
    written = {"schema_migrations"}  # the only one in `_IN_FUNCTIONS` that is no constant
    for module in _storage_modules():
        for name, value in vars(module).items():
            for text in () if name.startswith("__") else _texts(value):
                # Parts of fenced statements are constants too.
                if not re.search(r"\bfence\b", text) and _normal(text) not in fenced:
                    written.update(_WRITTEN.findall(text))
    assert written == set(UNFENCED)


def test_no_other_function_has_the_text_of_an_unfenced_write() -> None:
    found = set()
    for module in _storage_modules():
        assert module.__file__ is not None
        for node in ast.parse(Path(module.__file__).read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                text = "".join(value for value in constants if isinstance(value, str))
                if re.search(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) ", text) and "fence" not in text:
                    found.add(f"{module.__name__}.{node.name}")
    assert found == _IN_FUNCTIONS


def _storage_modules() -> list[Any]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("shared.storage.")]


def _texts(value: object) -> Iterator[str]:
    """Return the texts of an unfenced statement, or of a collection of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Statement) and not isinstance(value, FencedStatement):
        yield value.sql
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _normal(sql: str) -> str:
    return " ".join(_PARAMETER.sub("?", sql).split())
