"""What every scenario prints: the same figures as text for people and as JSON for comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from load.measure import GENERATOR, PROGRAMS, Cost, circumstances, latencies_ms

#: Not of a scenario's own; in this order at the end of the table.
_APART = (*PROGRAMS, GENERATOR)


@dataclass(frozen=True, slots=True)
class Result:
    """operation: what is counted, such as "event".  latencies_s: one for each that succeeded."""

    scenario: str
    operation: str
    parameters: Mapping[str, Any]
    latencies_s: list[float]
    errors: Mapping[str, int]
    cost: Cost
    facts: Mapping[str, str | int] = field(default_factory=circumstances)

    @property
    def count(self) -> int:
        return len(self.latencies_s)

    def cpu_ms(self) -> dict[str, float]:
        """CPU milliseconds per operation by group; `server` is the sum of our own worker types."""
        per_group = {group: 1000 * spent / max(1, self.count) for group, spent in self.cost.cpu_s.items()}
        workers = {group: spent for group, spent in sorted(per_group.items()) if group not in _APART}
        rest = {group: per_group[group] for group in _APART if group in per_group}
        return {**workers, "server": sum(workers.values()), **rest}

    def as_json(self) -> bytes:
        count = max(1, self.count)
        cost = self.cost
        return orjson.dumps(
            {
                "scenario": self.scenario,
                "facts": self.facts,
                "parameters": self.parameters,
                "seconds": round(cost.seconds, 2),
                f"{self.operation}s": self.count,
                f"{self.operation}s_per_s": round(self.count / cost.seconds, 1),
                "errors": self.errors,
                "latency_ms": latencies_ms(self.latencies_s),
                f"cpu_ms_per_{self.operation}": {group: round(ms, 3) for group, ms in self.cpu_ms().items()},
                f"per_{self.operation}": {
                    "statements": None if cost.statements is None else round(cost.statements / count, 3),
                    "transactions": None if cost.transactions is None else round(cost.transactions / count, 3),
                    "wal_bytes": None if cost.wal_bytes is None else round(cost.wal_bytes / count),
                },
            },
            option=orjson.OPT_INDENT_2,
        )

    def as_text(self) -> str:
        latency = latencies_ms(self.latencies_s)
        seconds = self.cost.seconds
        lines = [
            f"{self.scenario}: " + "  ".join(f"{name} {value}" for name, value in self.parameters.items()),
            "  ".join(f"{name} {value}" for name, value in self.facts.items()),
            "",
            f"{self.count} {self.operation}s in {seconds:.1f} s: {self.count / seconds:.1f} {self.operation}s/s",
            "latency in ms: " + "  ".join(f"{name} {value}" for name, value in latency.items()),
            f"errors: {', '.join(f'{count} x {what}' for what, count in self.errors.items()) or 'none'}",
            "",
            f"CPU ms per {self.operation}        share of a core",
        ]
        for group, ms in self.cpu_ms().items():
            # `server` sums up the lines above it.
            mark = "= " if group == "server" else "  "
            lines.append(f"{mark}{group:18} {ms:8.3f}   {ms * self.count / 10 / seconds:6.1f} %")
        lines += ["", *self._database_lines()]
        return "\n".join(lines)

    def _database_lines(self) -> list[str]:
        amounts = (
            ("statements", self.cost.statements, ".2f"),
            ("transactions", self.cost.transactions, ".2f"),
            ("bytes of write-ahead log", self.cost.wal_bytes, ".0f"),
        )
        return [
            f"{amount / max(1, self.count):{form}} {name} per {self.operation}"
            for name, amount, form in amounts
            if amount is not None
        ]
