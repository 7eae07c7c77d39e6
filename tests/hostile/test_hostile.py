"""Honest users notice nothing of an attacker who tries everything that `tests/hostile/attacks/` holds."""

import asyncio
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from load.harness.clients import Connection
from load.harness.measure import Process, listed_processes
from load.harness.memory import begin_peaks, peak_mib
from shared.config.sections import Caches, Haproxy, RateLimits
from tests.fix_fleet import ROOT, RunningFleet, run_shared_fleet
from tests.hostile.attacker import Order, Report
from tests.hostile.enemy import CLIENT, Account, Enemy, all_attacks
from tests.hostile.honest_users import Experience, HonestUser, percentile

_HONEST = 10
_ROOMS = 3
_ACCOUNTS = 4
_PASSWORD = "correct horse battery"
_QUIET_S = 12.0
#: Seconds for each attack in CI, and in the long form.
_SHORT_S = 3.0
_LONG_S = 60.0
#: The caches of a process, as configured, and a fifth more.
_CACHES_MIB = sum(asdict(Caches()).values()) / (1 << 20)


@dataclass(frozen=True, slots=True)
class _Window:
    """The time of one attack, and its result."""

    began: float
    ended: float
    report: Report


@pytest.fixture(scope="module")
def besieged_fleet() -> Iterator[RunningFleet]:
    """A fleet with the rate limits of production: a development fleet has none."""
    yield from run_shared_fleet(
        {
            "fleet": {"event_persister": 2, "synchrotron": 2, "client_api": 2, "media": 0, "federation_sender": 0},
            "rate_limits": asdict(RateLimits()),
            "haproxy": {name: limit for name, limit in asdict(Haproxy()).items() if name.endswith("_per_address")},
        }
    )


@pytest.mark.timeout(300)
async def test_honest_users_notice_no_attack(besieged_fleet: RunningFleet) -> None:
    await _besiege(besieged_fleet, _SHORT_S)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_honest_users_notice_no_attack_for_an_hour(besieged_fleet: RunningFleet) -> None:
    await _besiege(besieged_fleet, _LONG_S)


async def _besiege(fleet: RunningFleet, seconds: float) -> None:
    parts = urlsplit(fleet.client_url)
    host, port = str(parts.hostname), parts.port or 80
    experience = Experience()
    users = await _honest_users(host, port, experience)
    enemy = await _enemy(host, port, users[0].rooms)
    attacks = [name for name in all_attacks() if name in os.environ.get("SKEP_ATTACKS", name).split(",")]
    processes = listed_processes(fleet.status())
    workers = [each for each in processes if each.type not in ("postgres", "redis", "haproxy")]
    leases = _leases(fleet)
    before_mib = begin_peaks(workers)

    work = [asyncio.create_task(each) for user in users for each in (user.talk(), user.listen())]
    try:
        await asyncio.sleep(2)
        quiet = time.monotonic()
        await asyncio.sleep(_QUIET_S)
        loud = time.monotonic()
        windows = await _run_attacks(enemy, attacks, seconds)
        ended = time.monotonic()
        await asyncio.sleep(2)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    table = _table(experience, (quiet, loud), windows) + "\n" + "\n".join(_stalls(workers))
    print(table)
    assert [window.report.name for window in windows] == attacks, table
    assert {w.report.name: w.report.error for w in windows if w.report.error} == {}
    during = [told for at, told in experience.failures]
    assert during == [], f"{table}\n{len(during)} failures"
    assert _leases(fleet) == leases, f"a process lost its lease\n{table}\n{fleet.logs()}"
    peaks = {each.name: peak_mib(each.pid) for each in workers}
    over = {
        name: f"{before_mib[name]:.0f} MiB before, then {peak:.0f}"
        for name, peak in peaks.items()
        if peak > before_mib[name] + 1.2 * _CACHES_MIB
    }
    assert over == {}, table
    assert len(experience.sends) > _HONEST * (ended - quiet) / 2, table


async def _run_attacks(enemy: Enemy, attacks: Sequence[str], seconds: float) -> list[_Window]:
    order = Order(
        host=enemy.host,
        port=enemy.port,
        accounts=list(enemy.accounts),
        rooms=list(enemy.rooms),
        attacks=list(attacks),
        seconds=seconds,
    )
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.hostile.attacker",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdin is not None and program.stdout is not None
    try:
        program.stdin.write(msgspec.json.encode(order))
        program.stdin.write_eof()
        windows, began = [], time.monotonic()
        while line := await program.stdout.readline():
            now = time.monotonic()
            windows.append(_Window(began, now, msgspec.json.decode(line, type=Report)))
            began = now
        return windows
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()


async def _honest_users(host: str, port: int, experience: Experience) -> list[HonestUser]:
    """Register the users, each at an address of their own, and have all join the same public rooms."""
    users = []
    rooms: list[str] = []
    for number in range(_HONEST):
        source = f"127.1.0.{number + 1}"
        account = await _register(host, port, f"honest-{number}", source)
        connections = [Connection(host, port, account.token, source=source) for _ in range(2)]
        if len(rooms) < _ROOMS:
            body = {"preset": "public_chat", "name": f"room {number}"}
            made = await connections[0].request("POST", f"{CLIENT}/createRoom", body)
            rooms.append(made["room_id"])
        users.append(
            HonestUser(
                user_id=account.user_id,
                sending=connections[0],
                syncing=connections[1],
                rooms=rooms,
                experience=experience,
            )
        )
    for user in users:
        for room in rooms:
            await user.sending.request("POST", f"{CLIENT}/rooms/{quote(room, safe='')}/join", {})
    return users


async def _enemy(host: str, port: int, rooms: Sequence[str]) -> Enemy:
    accounts = [await _register(host, port, f"enemy-{n}", f"127.66.9.{n + 1}") for n in range(_ACCOUNTS)]
    enemy = Enemy(host=host, port=port, accounts=accounts, rooms=rooms)
    for number in range(_ACCOUNTS):
        await enemy.ask("POST", f"/rooms/{quote(rooms[0], safe='')}/join", {}, account=number)
    return enemy


async def _register(host: str, port: int, name: str, source: str) -> Account:
    connection = Connection(host, port, source=source)
    body: dict[str, Any] = {"username": name, "password": _PASSWORD}
    _, raw = await connection.raw_request("POST", f"{CLIENT}/register", orjson.dumps(body))
    session = orjson.loads(raw).get("session", "")
    body["auth"] = {"type": "m.login.dummy", "session": session}
    made = await connection.request("POST", f"{CLIENT}/register", body)
    connection.close()
    return Account(user_id=made["user_id"], token=made["access_token"], password=_PASSWORD)


def _stalls(workers: Sequence[Process]) -> list[str]:
    """Return a line for each endpoint whose work blocked an event loop for over 50 ms. A busy machine adds some."""
    lines = []
    for worker in workers:
        with urllib.request.urlopen(f"http://{worker.address}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        for family in families:
            for sample in family.samples if family.name == "skep_loop_stalls" else ():
                if sample.name.endswith("_total") and sample.value:
                    lines.append(f"{worker.name}: {sample.labels['endpoint']} blocked it {sample.value:.0f} times")
    return lines


def _leases(fleet: RunningFleet) -> dict[str, int]:
    return {each["name"]: each["lease"] for each in fleet.status()["processes"] if "lease" in each}


def _table(experience: Experience, quiet: tuple[float, float], windows: Sequence[_Window]) -> str:
    """Return a table of the honest users' latencies, by attack."""
    lines = [f"{'':40} {'send p50':>9} {'p99':>7} {'sync p50':>9} {'p99':>7}  statuses of the attacker"]
    rows = [("(no attack)", *quiet, "")]
    for window in windows:
        told = f"{window.report.statuses} in {window.report.rounds} rounds {window.report.error}"
        rows.append((window.report.name, window.began, window.ended, told))
    if windows:
        rows.append(("(all attacks)", windows[0].began, windows[-1].ended, ""))
    for name, began, ended, told in rows:
        figures = [
            percentile(values, share, began, ended) * 1000
            for values in (experience.sends, experience.deliveries)
            for share in (0.5, 0.99)
        ]
        sends, send_99, syncs, sync_99 = figures
        lines.append(f"{name:40} {sends:9.1f} {send_99:7.1f} {syncs:9.1f} {sync_99:7.1f}  {told}")
    for at, failure in experience.failures[:20]:
        during = next((w.report.name for w in windows if w.began <= at < w.ended), "no attack")
        lines.append(f"failed during {during}: {failure}")
    return "\n".join(lines)
