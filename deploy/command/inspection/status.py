"""Show the processes of the fleet, the owners of slots, and the position and lag of each stream."""

import argparse
import asyncio
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from deploy.command.opened_database import opened_database
from deploy.command.options import add_config_option, config_path
from deploy.local.data_directory import FleetRecord, read_fleet_beside
from replication.streams import STREAMS, Kind
from shared.config.addresses import database_dsn_without_password
from shared.config.load import load_config
from shared.config.remarks import remarks
from shared.config.sections import Config
from shared.storage.fleet.background_steps import get_progress, list_set_aside
from shared.storage.fleet.status import FleetStatus, get_fleet_status

#: Process types of `skep up` that hold no lease.
_PROGRAMS = ("postgres", "redis", "haproxy")
_MAX_SET_ASIDE = 100  # items shown, the latest


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with more detail")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, and UsageError if the database cannot be used."""
    path = config_path(arguments)
    status = asyncio.run(fleet_status(load_config(path), path))
    print(status_json(status) if arguments.json else status_text(status))
    return 0


async def fleet_status(config: Config, path: Path) -> dict[str, Any]:
    """Return the status as plain values, as `--json` prints it.

    path: the file of the configuration. The record of `skep up` beside it has the programs without a lease.
    Raises UsageError if the database cannot be used.
    """
    sequences = {s.name: s.sequence for s in STREAMS.values() if s.kind is not Kind.EPHEMERAL}
    async with opened_database(config, path) as database:
        status = await get_fleet_status(database, sequences)
        progress, set_aside = await get_progress(database), await list_set_aside(database, _MAX_SET_ASIDE)
    return {
        "server_name": config.server_name,
        "database": database_dsn_without_password(config.database),
        "processes": [*_processes(status, config.replication.dead_after_s), *_programs(read_fleet_beside(path))],
        "slots": _slots(status),
        "pinned": _pinned(status),
        "streams": _streams(status),
        "background": [{"job": each.step, "behind": each.behind} for each in progress],
        "set_aside": [
            {"job": each.step, "item": each.item, "reason": each.reason, "at": each.at.isoformat(timespec="seconds")}
            for each in set_aside
        ],
        "remarks": list(remarks(config)),
    }


def _processes(status: FleetStatus, dead_after_s: float) -> list[dict[str, Any]]:
    owned: dict[int, dict[str, int]] = {}
    for row in status.slots:
        if row.owner is not None:
            kinds = owned.setdefault(row.owner, {})
            kinds[row.kind] = kinds.get(row.kind, 0) + 1
    return [
        {
            "name": p.process,
            "type": p.type,
            "pid": p.pid,
            "host": p.host,
            "address": p.address,
            "ready": p.ready and not p.revoked and p.silent_s < dead_after_s,
            "draining": p.draining,
            "leads": p.lease == status.leader,
            "lease": p.lease,
            "version": p.version,
            "age_s": round(p.age_s, 1),
            "heartbeat_age_s": round(p.silent_s, 2),
            "slots": owned.get(p.lease, {}),
        }
        for p in status.processes
    ]


def _programs(local: FleetRecord | None) -> list[dict[str, Any]]:
    if local is None:
        return []
    return [
        {
            "name": p.name,
            "type": p.type,
            "pid": p.pid,
            "host": p.host or socket.gethostname(),
            "address": p.address,
            "ready": p.identity.is_alive(),
        }
        for p in local.processes
        if p.type in _PROGRAMS
    ]


def _slots(status: FleetStatus) -> dict[str, list[dict[str, Any]]]:
    """Return each kind's slots as ranges with one owner."""
    names = {p.lease: p.process for p in status.processes}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in status.slots:
        ranges = kinds.setdefault(row.kind, [])
        owner = names.get(row.owner, f"lease {row.owner}") if row.owner is not None else None
        if ranges and ranges[-1]["owner"] == owner and ranges[-1]["last"] == row.slot - 1:
            ranges[-1]["last"] = row.slot
        else:
            ranges.append({"first": row.slot, "last": row.slot, "owner": owner})
    return kinds


def _pinned(status: FleetStatus) -> list[dict[str, Any]]:
    """Return the slots that operators placed with `skep move`."""
    names = {p.lease: p.process for p in status.processes}
    return [
        {"kind": row.kind, "slot": row.slot, "owner": None if row.owner is None else names.get(row.owner)}
        for row in status.slots
        if row.pinned
    ]


def _streams(status: FleetStatus) -> list[dict[str, Any]]:
    """Return each stream's last position in Postgres, and the lag of the writer that has announced least."""
    streams = []
    for name, last in status.sequences.items():
        writers: list[dict[str, Any]] = [
            {"name": p.process, "lease": p.lease, "complete_up_to": p.positions[name], "lag": last - p.positions[name]}
            for p in status.processes
            if name in p.positions
        ]
        streams.append(
            {"name": name, "position": last, "lag": max((w["lag"] for w in writers), default=0), "writers": writers}
        )
    return streams


def status_json(status: dict[str, Any]) -> str:
    return orjson.dumps(status, option=orjson.OPT_INDENT_2).decode()


def status_text(status: dict[str, Any]) -> str:
    """Return the status for people."""
    blocks = [
        f"{status['server_name']}  ({status['database']})",
        _table(
            ("PROCESS", "TYPE", "PID", "ADDRESS", "STATE", "SLOTS"),
            [
                (p["name"], p["type"], p["pid"], f"{p['host']} {p['address']}", _state(p), _slot_count(p))
                for p in status["processes"]
            ],
        ),
        _table(
            ("STREAM", "POSITION", "LAG", "WRITERS (complete up to)"),
            [(s["name"], s["position"], s["lag"], _writers(s)) for s in status["streams"]],
        ),
        _table(("SLOTS OF", "OWNED BY", "SLOTS"), list(_owners(status["slots"]))),
    ]
    if status["pinned"]:
        rows = [(p["kind"], p["slot"], p["owner"] or "nobody") for p in status["pinned"]]
        blocks.append(_table(("PINNED", "SLOT", "OWNED BY"), rows))
    blocks.append(_table(("BACKGROUND JOB", "BEHIND"), [(b["job"], b["behind"]) for b in status["background"]]))
    if status["set_aside"]:
        left_out = [(s["job"], s["item"], s["at"], s["reason"]) for s in status["set_aside"]]
        blocks.append(_table(("SET ASIDE BY", "ITEM", "AT", "REASON"), left_out))
    return "\n\n".join([*blocks, *status["remarks"]])


def _state(process: dict[str, Any]) -> str:
    if process.get("draining"):
        return "draining" if process.get("slots") else "drained"
    state = "ready" if process["ready"] else "not ready"
    return state + ", leads" if process.get("leads") else state


def _writers(stream: dict[str, Any]) -> str:
    return ", ".join(f"{writer['name']} {writer['complete_up_to']}" for writer in stream["writers"]) or "none"


def _slot_count(process: dict[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in process.get("slots", {}).items())


def _owners(slots: dict[str, list[dict[str, Any]]]) -> Iterable[tuple[Any, ...]]:
    for kind, ranges in slots.items():
        counts: dict[str | None, int] = {}
        for part in ranges:
            counts[part["owner"]] = counts.get(part["owner"], 0) + part["last"] - part["first"] + 1
        for owner, count in sorted(counts.items(), key=lambda item: (item[0] is None, item[0] or "")):
            yield kind, owner or "nobody", count


def _table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    lines = [head, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
