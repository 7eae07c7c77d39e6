"""The output of scenarios: the same figures as text and as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from load.harness.measure import GENERATOR, PROGRAMS, Cost, circumstances, latencies_ms
from load.harness.memory import Memory

#: The groups that are not workers, in this order at the end of the table.
_APART = (*PROGRAMS, GENERATOR)


@dataclass(frozen=True, slots=True)
class Growth:
    """The growth of the database.

    by_relation: (table, index or "") -> bytes.
    event_bytes: the mean length of the events' JSON.
    """

    by_relation: Mapping[tuple[str, str], int]
    event_bytes: float

    @property
    def total(self) -> int:
        return sum(self.by_relation.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one case of a scenario.

    operation: the counted operation, such as "event".
    latencies_s: one for each successful operation.
    case: the name among the scenario's cases.
    memory: by process.
    """

    scenario: str
    operation: str
    parameters: Mapping[str, Any]
    latencies_s: list[float]
    errors: Mapping[str, int]
    cost: Cost
    growth: Growth | None = None
    facts: Mapping[str, str | int] = field(default_factory=circumstances)
    case: str = ""
    memory: Mapping[str, Memory] = field(default_factory=dict)

    @property
    def operations(self) -> str:
        return f"{self.operation[:-1]}ies" if self.operation.endswith("y") else f"{self.operation}s"

    @property
    def count(self) -> int:
        return len(self.latencies_s)

    def cpu_ms(self) -> dict[str, float]:
        """Return CPU milliseconds per operation by group. `server` is the sum of all worker types."""
        per_group = {group: 1000 * spent / max(1, self.count) for group, spent in self.cost.cpu_s.items()}
        workers = {group: spent for group, spent in sorted(per_group.items()) if group not in _APART}
        rest = {group: per_group[group] for group in _APART if group in per_group}
        return {**workers, "server": sum(workers.values()), **rest}

    def as_values(self) -> dict[str, Any]:
        """Return all figures as plain values, for JSON."""
        count = max(1, self.count)
        cost = self.cost
        return {
            "scenario": self.scenario,
            "case": self.case,
            "facts": self.facts,
            "parameters": self.parameters,
            "seconds": round(cost.seconds, 2),
            self.operations: self.count,
            f"{self.operations}_per_s": round(self.count / cost.seconds, 1),
            "errors": self.errors,
            "latency_ms": latencies_ms(self.latencies_s),
            f"cpu_ms_per_{self.operation}": {group: round(ms, 3) for group, ms in self.cpu_ms().items()},
            f"per_{self.operation}": {
                "statements": None if cost.statements is None else round(cost.statements / count, 3),
                "transactions": None if cost.transactions is None else round(cost.transactions / count, 3),
                "other_statements": None if cost.other_statements is None else round(cost.other_statements / count, 4),
                "wal_bytes": None if cost.wal_bytes is None else round(cost.wal_bytes / count),
            },
            f"rows_read_per_{self.operation}": {
                table: round(rows / count, 4) for table, rows in sorted(cost.rows_read.items())
            },
            "growth": None
            if self.growth is None
            else {
                "event_bytes": round(self.growth.event_bytes),
                f"bytes_per_{self.operation}": round(self.growth.total / count),
                "by_relation": {
                    index or table: round(size / count) for (table, index), size in self.growth.by_relation.items()
                },
            },
            "memory_mib": {
                name: {"before": round(used.before, 1), "peak": round(used.peak, 1), "budget": used.budget}
                for name, used in self.memory.items()
            },
        }

    def as_text(self) -> str:
        latency = latencies_ms(self.latencies_s)
        seconds = self.cost.seconds
        lines = [
            f"{self.scenario}{f', {self.case}' if self.case else ''}: "
            + "  ".join(f"{name} {value}" for name, value in self.parameters.items()),
            "  ".join(f"{name} {value}" for name, value in self.facts.items()),
            "",
            f"{self.count} {self.operations} in {seconds:.1f} s: {self.count / seconds:.1f} {self.operations}/s",
            "latency in ms: " + "  ".join(f"{name} {value}" for name, value in latency.items()),
            f"errors: {', '.join(f'{count} x {what}' for what, count in self.errors.items()) or 'none'}",
            "",
            f"CPU ms per {self.operation}        share of a core",
        ]
        for group, ms in self.cpu_ms().items():
            # `server` sums up the lines above it.
            mark = "= " if group == "server" else "  "
            lines.append(f"{mark}{group:18} {ms:8.3f}   {ms * self.count / 10 / seconds:6.1f} %")
        lines += ["", *self._database_lines(), *self._memory_lines()]
        return "\n".join(lines)

    def _memory_lines(self) -> list[str]:
        """Return the peaks of the processes with a budget."""
        return [
            f"{name}: peak {used.peak:.0f} MiB, {used.before:.0f} before; {100 * used.share:.0f} % of its budget"
            for name, used in self.memory.items()
            if used.share is not None
        ]

    def _database_lines(self) -> list[str]:
        amounts = (
            ("statements", self.cost.statements, ".3f"),
            ("statements of persisters that store no events", self.cost.other_statements, ".4f"),
            ("transactions", self.cost.transactions, ".2f"),
            ("bytes of write-ahead log", self.cost.wal_bytes, ".0f"),
        )
        count = max(1, self.count)
        lines = [
            f"{amount / count:{form}} {name} per {self.operation}"
            for name, amount, form in amounts
            if amount is not None
        ]
        read = "  ".join(f"{table} {rows / count:.3f}" for table, rows in sorted(self.cost.rows_read.items()))
        lines.append(f"rows read per {self.operation}: {read or 'none'}")
        if self.growth is not None:
            lines.append(
                f"{self.growth.total / count:.0f} bytes of database growth per {self.operation},"
                f" with {self.growth.event_bytes:.0f} bytes of JSON each:"
            )
            lines += [
                f"  {index or table:30} {size / count:8.0f}"
                for (table, index), size in self.growth.by_relation.items()
                if abs(size) >= count
            ]
        return lines


def as_json(results: Sequence[Result]) -> bytes:
    """Return one result as an object, or several as a list."""
    values: Any = [result.as_values() for result in results]
    return orjson.dumps(values[0] if len(results) == 1 else values, option=orjson.OPT_INDENT_2)


#: The columns of a comparison: heading -> figure of a result.
_FIGURES: Mapping[str, Callable[[Result], float]] = {
    "server CPU ms": lambda result: result.cpu_ms()["server"],
    "persister CPU ms": lambda result: result.cpu_ms().get("event_persister", 0.0),
    "Postgres CPU ms": lambda result: result.cpu_ms().get("postgres", 0.0),
    "statements": lambda result: (result.cost.statements or 0.0) / max(1, result.count),
    "p50 ms": lambda result: latencies_ms(result.latencies_s)["p50"],
    "peak MiB": lambda result: max((used.peak for used in result.memory.values() if used.share), default=0.0),
    "WAL bytes": lambda result: (result.cost.wal_bytes or 0) / max(1, result.count),
    "growth bytes": lambda result: (result.growth.total if result.growth else 0) / max(1, result.count),
}


def comparison(commit: str, others: Sequence[Sequence[Result]], ours: Sequence[Sequence[Result]]) -> str:
    """Return a table with the least figure of each side for each case, and the greatest in brackets.

    others, ours: the runs of one side, each with a result for each case.
    """
    facts = ours[0][0].facts
    width = max(7, *(len(result.case) for result in ours[0]))
    lines = [
        f"{commit} against {facts['commit']}, per {ours[0][0].operation}; least of {len(ours)} runs (greatest)",
        "  ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        f"{'case':>{width}} {'figure':18} {commit[:12]:>22} {'this':>22}   change",
    ]
    for index, result in enumerate(ours[0]):
        for name, figure in _FIGURES.items():
            before, after = ([figure(run[index]) for run in runs] for runs in (others, ours))
            change = f"{100 * (min(after) / min(before) - 1):+6.1f} %" if min(before) else ""
            spans = [f"{min(values):.3f} ({max(values):.3f})" for values in (before, after)]
            lines.append(f"{result.case:>{width}} {name:18} {spans[0]:>22} {spans[1]:>22} {change}")
    return "\n".join(lines)
