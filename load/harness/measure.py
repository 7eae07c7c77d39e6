"""The cost of a load: CPU time by process group, database work and latency, with the machine and the commit.

CPU time is read from /proc before and after the load, for the processes in `skep status --json` and their descendants
(Postgres' backends). Unlike wall time, it can be compared on a shared machine.
"""

import math
import os
import platform
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from prometheus_client.parser import text_string_to_metric_families

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

#: The process types that are other programs. Every other type is a worker type.
PROGRAMS = ("postgres", "redis", "haproxy")
GENERATOR = "generator"

#: The counters of statements that a process sent to Postgres, and of a persister's statements that stored events.
STATEMENTS_METRIC = "skep_database_statements_total"
STORED_METRIC = "skep_persister_statements_total"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the fleet as `skep status --json` names it."""

    name: str
    type: str
    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters at one time."""

    at_s: float
    #: CPU seconds since the start of the processes, by group.
    cpu_s: Mapping[str, float]
    #: By process, for those with metrics.
    statements: Mapping[str, float]
    #: Statements that stored events, by persister.
    stored: Mapping[str, float]
    #: Of the whole database, None if it could not be read.
    transactions: int | None
    wal_bytes: int | None
    #: Rows that scans fetched, by table.
    rows_read: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """The difference of two samples. Unknown numbers are None."""

    seconds: float
    cpu_s: Mapping[str, float]
    statements: float | None
    #: The persisters' statements that stored no events, most of them reads.
    other_statements: float | None
    transactions: int | None
    wal_bytes: int | None
    rows_read: Mapping[str, int]


def listed_processes(status: Mapping[str, Any]) -> list[Process]:
    """Return the processes on this machine. status: the answer of `skep status --json`."""
    here = platform.node()
    return [
        Process(each["name"], each["type"], each["pid"], each["address"])
        for each in status["processes"]
        if each["host"] in (here, "127.0.0.1", "localhost", "")
    ]


async def take_sample(processes: Sequence[Process], database: str | None, *, last: bool) -> Sample:
    """Read all counters.

    database: a DSN, or None to leave it out.
    last: True for the sample after the load. CPU time is read nearest to the load, since reading the other counters
        costs CPU time itself.
    """
    at_s, cpu_s = time.monotonic(), _cpu_by_group(processes)
    scraped = {each.name: scrape(each) for each in processes}
    statements = {name: found[STATEMENTS_METRIC] for name, found in scraped.items() if STATEMENTS_METRIC in found}
    stored = {name: found[STORED_METRIC] for name, found in scraped.items() if STORED_METRIC in found}
    transactions, wal_bytes, rows_read = await _database_counters(database) if database else (None, None, {})
    if not last:
        at_s, cpu_s = time.monotonic(), _cpu_by_group(processes)
    return Sample(
        at_s=at_s,
        cpu_s=cpu_s,
        statements=statements,
        stored=stored,
        transactions=transactions,
        wal_bytes=wal_bytes,
        rows_read=rows_read,
    )


def cost(before: Sample, after: Sample) -> Cost:
    """Return the difference of two samples. A group that is missing in the first one counts from its start."""
    spent = {group: value - before.cpu_s.get(group, 0.0) for group, value in after.cpu_s.items()}
    statements = {name: value - before.statements.get(name, 0.0) for name, value in after.statements.items()}
    stored = {name: value - before.stored.get(name, 0.0) for name, value in after.stored.items()}
    rows_read = {table: count - before.rows_read.get(table, 0) for table, count in after.rows_read.items()}
    return Cost(
        seconds=after.at_s - before.at_s,
        cpu_s=spent,
        statements=sum(statements.values()) if statements else None,
        other_statements=sum(statements[name] - count for name, count in stored.items()) if stored else None,
        transactions=_difference(before.transactions, after.transactions),
        wal_bytes=_difference(before.wal_bytes, after.wal_bytes),
        rows_read={table: count for table, count in rows_read.items() if count},
    )


def sum_of(costs: Sequence[Cost]) -> Cost:
    """Return the sum of several costs."""
    groups, tables = {g for each in costs for g in each.cpu_s}, {t for each in costs for t in each.rows_read}
    transactions = _total([each.transactions for each in costs])
    wal_bytes = _total([each.wal_bytes for each in costs])
    return Cost(
        seconds=sum(each.seconds for each in costs),
        cpu_s={group: sum(each.cpu_s.get(group, 0.0) for each in costs) for group in groups},
        statements=_total([each.statements for each in costs]),
        other_statements=_total([each.other_statements for each in costs]),
        transactions=None if transactions is None else int(transactions),
        wal_bytes=None if wal_bytes is None else int(wal_bytes),
        rows_read={table: sum(each.rows_read.get(table, 0) for each in costs) for table in tables},
    )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _cpu_by_group(processes: Iterable[Process]) -> dict[str, float]:
    stats = _process_table()
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    roots = {each.pid for each in processes}
    groups: dict[str, float] = {}
    for each in processes:
        if each.pid in stats:
            ticks = _tree_ticks(each.pid, stats, children, roots)
            groups[each.type] = groups.get(each.type, 0.0) + ticks / _TICKS_PER_S
    groups[GENERATOR] = time.process_time()
    return groups


@dataclass(frozen=True, slots=True)
class _Stat:
    """Ticks of a process: its own, and those of the ended children that it waited for."""

    parent: int
    own: int
    ended: int


def _process_table() -> dict[int, _Stat]:
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                text = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue  # ended meanwhile
            # The name is in parentheses and may hold spaces and parentheses itself. The fields from 3 on follow it:
            # 4 is the parent, 14 to 17 are the times. See proc(5), /proc/pid/stat.
            fields = text.rpartition(")")[2].split()
            table[int(entry.name)] = _Stat(
                int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
            )
    return table


def _tree_ticks(pid: int, stats: Mapping[int, _Stat], children: Mapping[int, Sequence[int]], roots: set[int]) -> int:
    """Return the ticks of a process and its descendants, without those that are listed themselves."""
    stat = stats[pid]
    below = (child for child in children.get(pid, ()) if child not in roots)
    return stat.own + stat.ended + sum(_tree_ticks(child, stats, children, roots) for child in below)


def scrape(process: Process) -> dict[str, float]:
    """Return a process's metrics by name with labels, as `/metrics` has them. Other programs have none."""
    if process.type in PROGRAMS or not process.address:
        return {}
    try:
        with urllib.request.urlopen(f"http://{process.address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


async def _database_counters(dsn: str) -> tuple[int | None, int | None, dict[str, int]]:
    """Return committed transactions (including single statements), bytes of WAL, and rows read by table.

    All are cumulative. Postgres' sessions report transactions and rows once a second while they work.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, asyncpg.PostgresError):
        return None, None, {}
    try:
        row = await connection.fetchrow(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),"
            " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        )
        read = await connection.fetch(
            "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
        )
        assert row is not None
        return row[0], row[1], {table: count for table, count in read if count}
    finally:
        await connection.close()


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that this share of the ordered values does not exceed, 0.0 without values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def latencies_ms(seconds: Iterable[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(percentile(ordered, 0.50) * 1000, 2),
        "p95": round(percentile(ordered, 0.95) * 1000, 2),
        "p99": round(percentile(ordered, 0.99) * 1000, 2),
        "max": round(percentile(ordered, 1.0) * 1000, 2),
    }


def circumstances() -> dict[str, str | int]:
    """Return the machine, the date and the commit. Without them figures cannot be compared."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True, text=True)
        return answer.stdout.strip()

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else ""),
        "machine": platform.node(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
