"""Planned moves: no request fails or waits while slots, leaders and haproxy change."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.command.main import main
from deploy.local.identity import pick_port, start_ticks
from replication.process.draining import DRAINED
from shared.config.generate import development_yaml, write_secrets
from shared.core.slots import SLOTS, slot_of
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fix_patience import Patience
from tests.fleet.observing import metrics, owner_of, wait_for_process
from tests.fleet.steady_senders import Sender, steady_senders

_FLEET = {
    "event_persister": 2,
    "synchrotron": 1,
    "client_api": 1,
    "federation_reader": 0,
    "federation_sender": 0,
    "background": 0,
    "media": 0,
}
#: A planned move takes less than a second. The rest is for a busy machine.
_LONGEST_S = 1.5


@pytest.fixture(scope="module")
def moving_fleet() -> Iterator[RunningFleet]:
    yield from run_fleet({"fleet": _FLEET})


@contextmanager
def undisturbed_senders(fleet: RunningFleet, patience: Patience) -> Iterator[list[Sender]]:
    """Check that senders get no failed or slow answer during the block, and that messages are stored once, in order."""
    with steady_senders(fleet, 4, make_rooms=True) as senders:
        yield senders
    for sender in senders:
        assert sender.failed == []
        assert sender.longest_s < patience(_LONGEST_S)
        assert sender.stored() == sender.sent


def slots_of(fleet: RunningFleet, name: str) -> int:
    process: dict[str, Any] = next(
        (each for each in fleet.status()["processes"] if each["name"] == name), {"slots": {}}
    )
    return int(process["slots"].get("rooms", 0))


def wait_until_even(fleet: RunningFleet) -> None:
    done = fleet.skep("rebalance")
    assert done.returncode == 0, done


def leader(fleet: RunningFleet) -> dict[str, Any] | None:
    return next((each for each in fleet.status()["processes"] if each.get("leads") and each["ready"]), None)


def numbers(fleet: RunningFleet) -> dict[tuple[str, ...], float]:
    """Return the leader's metrics about the fleet: (name, sorted label values) -> value."""
    process = leader(fleet)
    assert process is not None
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in metrics(process)
        if family.name.startswith("skep_fleet_")
        for sample in family.samples
    }


async def test_added_worker_gets_its_share_and_drained_worker_hands_it_over(
    moving_fleet: RunningFleet, patience: Patience
) -> None:
    """No other process ends during the moves."""
    told = numbers(moving_fleet)
    assert told["skep_fleet_leads",] == 1
    assert told["skep_fleet_processes", "event_persister", "ready"] == 2
    assert told["skep_fleet_slots_unowned", "rooms"] == told["skep_fleet_slots_unowned", "users"] == 0
    assert ("skep_fleet_slots_unowned", "destinations") not in told
    assert told["skep_fleet_moves_withdrawn_total", "rooms"] == told["skep_fleet_proxies_away",] == 0
    pids = {name: each["pid"] for name, each in moving_fleet.processes().items()}
    with undisturbed_senders(moving_fleet, patience):
        joiner = moving_fleet.add_worker("event_persister")
        found = await wait_for_process(moving_fleet, lambda p: p["pid"] == joiner.pid and bool(p.get("slots")))
        wait_until_even(moving_fleet)
        assert slots_of(moving_fleet, found["name"]) == SLOTS // 3
        done = moving_fleet.skep("drain", found["name"])
        assert done.returncode == 0, done
        assert f"{found['name']}: 0 slots left" in done.stdout or "has ended" in done.stdout
        assert joiner.wait(5) == DRAINED
    assert {name: each["pid"] for name, each in moving_fleet.processes().items()} == pids


async def test_terminated_worker_hands_over_its_slots_first(moving_fleet: RunningFleet, patience: Patience) -> None:
    before = moving_fleet.processes()["event_persister-1"]["pid"]
    with undisturbed_senders(moving_fleet, patience):
        moving_fleet.kill("event_persister-1", signal.SIGTERM)
        await wait_for_process(
            moving_fleet,
            lambda p: p["name"] == "event_persister-1" and p["pid"] != before and p["slots"].get("rooms", 0) > 100,
        )
    log = (moving_fleet.directory / "logs" / "event_persister-1.log").read_text()
    assert "Handed over after" in log
    assert "are still ours" not in log


async def test_drained_process_can_stay_and_gets_slots_after_undrain(
    moving_fleet: RunningFleet, patience: Patience
) -> None:
    with undisturbed_senders(moving_fleet, patience):
        done = moving_fleet.skep("drain", "event_persister-2", "--keep-running")
        assert done.returncode == 0, done
        assert "0 slots left" not in done.stdout or "is drained and keeps running" in done.stdout
        assert slots_of(moving_fleet, "event_persister-2") == 0
        refused = moving_fleet.skep("drain", "event_persister-1")
        assert refused.returncode == 1
        assert "skep worker event_persister" in refused.stderr
        assert moving_fleet.skep("undrain", "event_persister-2").returncode == 0
        await wait_for_process(moving_fleet, lambda p: p["name"] == "event_persister-2" and bool(p.get("slots")))
        wait_until_even(moving_fleet)


def test_moved_slot_stays_pinned_until_rebalance(moving_fleet: RunningFleet, patience: Patience) -> None:
    with undisturbed_senders(moving_fleet, patience) as senders:
        room = senders[0].room_id
        slot = slot_of(room)
        owner = owner_of(moving_fleet.status(), "rooms", slot)
        other = "event_persister-1" if owner == "event_persister-2" else "event_persister-2"
        done = moving_fleet.skep("move", "rooms", room, other)
        assert done.returncode == 0, done
        assert f"{other} owns slot {slot} of rooms" in done.stdout
        status = moving_fleet.status()
        assert owner_of(status, "rooms", slot) == other
        assert numbers(moving_fleet)["skep_fleet_slots_pinned", "rooms"] == 1
        assert {"kind": "rooms", "slot": slot, "owner": other} in status["pinned"]
        plan = moving_fleet.skep("rebalance", "--dry-run")
        assert f"slot {slot} is pinned to {other}" in plan.stdout
        assert f"1 slots from {other} to {owner}" in plan.stdout
        time.sleep(2.5)  # rebalancing would have begun after two seconds
        assert moving_fleet.status()["pinned"] == status["pinned"]
        assert slots_of(moving_fleet, other) == SLOTS // 2 + 1
        wait_until_even(moving_fleet)
        assert moving_fleet.status()["pinned"] == []
        assert slots_of(moving_fleet, other) == SLOTS // 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("drain", "nobody"), "These are: client_api-1, event_persister-1"),
        (("drain", "synchrotron-1"), "Start one first (skep worker synchrotron)"),
        (("drain", "main-1"), "Start one first (skep main)"),
        (("undrain", "event_persister-1"), "not being drained"),
        (("move", "rooms", "1024", "event_persister-1"), "0 to 1023"),
        (("move", "rooms", "-1", "event_persister-1"), "neither a slot's number"),
        (("move", "rooms", "@user:example.org", "event_persister-1"), "nor a room id"),
        (("move", "rooms", "5", "client_api-1"), "belong to processes of the type event_persister"),
        (("move", "users", "5", "event_persister-1"), "Did you mean rooms?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_arguments_get_an_error_with_advice(
    moving_fleet: RunningFleet, words: tuple[str, ...], told: str
) -> None:
    done = moving_fleet.skep(*words)
    assert done.returncode == 1, done
    assert told in done.stderr


def test_commands_report_an_unreachable_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_secrets(tmp_path)
    raw = yaml.safe_load(development_yaml(8008, 8448))
    raw["database"] = {"hosts": ["127.0.0.1"], "port": pick_port("127.0.0.1"), "user": "skep", "name": "skep"}
    (tmp_path / "skep.yaml").write_text(yaml.safe_dump(raw))
    for words in (["drain", "p"], ["undrain", "p"], ["move", "rooms", "1", "p"], ["rebalance"]):
        assert main([*words, "--config", str(tmp_path / "skep.yaml")]) == 1
        told = capsys.readouterr().err
        assert "The database at" in told and "cannot be used" in told


async def test_without_main_workers_serve_and_moves_are_refused(moving_fleet: RunningFleet, patience: Patience) -> None:
    with undisturbed_senders(moving_fleet, patience):
        moving_fleet.kill("main-1", signal.SIGSTOP)
        try:
            await asyncio.sleep(3.5)  # longer than the time after which a process counts as dead
            done = moving_fleet.skep("drain", "event_persister-1")
            assert done.returncode == 1
            assert "No main leads" in done.stderr
        finally:
            moving_fleet.kill("main-1", signal.SIGCONT)
        await wait_for_process(moving_fleet, lambda p: p["type"] == "main" and p["leads"] and p["ready"])


async def test_new_leader_finishes_a_drain_and_the_old_leader_stands_by(
    moving_fleet: RunningFleet, patience: Patience
) -> None:
    with undisturbed_senders(moving_fleet, patience):
        moving_fleet.add_main("main-2")
        await wait_for_process(moving_fleet, lambda p: p["name"] == "main-2" and p["ready"])
        first = leader(moving_fleet)
        assert first is not None

        # The leader stops in the middle of a drain.
        answers: list[Any] = []
        drain = threading.Thread(
            target=lambda: answers.append(moving_fleet.skep("drain", "event_persister-2", "--keep-running"))
        )
        drain.start()
        while slots_of(moving_fleet, "event_persister-2") == SLOTS // 2:
            pass
        os.kill(first["pid"], signal.SIGSTOP)
        second = await wait_for_process(
            moving_fleet, lambda p: p["type"] == "main" and p["leads"] and p["pid"] != first["pid"]
        )
        drain.join()
        assert answers[0].returncode == 0, answers
        assert slots_of(moving_fleet, "event_persister-2") == 0

        # It continues in the middle of its work, learns that its lease has expired, and becomes a standby.
        os.kill(first["pid"], signal.SIGCONT)
        again = await wait_for_process(
            moving_fleet, lambda p: p["pid"] == first["pid"] and p["lease"] > second["lease"]
        )
        assert not again["leads"]
        assert leader(moving_fleet) is not None
        assert slots_of(moving_fleet, "event_persister-1") == SLOTS
        assert moving_fleet.skep("undrain", "event_persister-2").returncode == 0
    assert start_ticks(first["pid"]) is not None


def test_restarted_haproxy_knows_the_fleet_at_once(moving_fleet: RunningFleet) -> None:
    with steady_senders(moving_fleet, 4) as senders:
        moving_fleet.kill("haproxy")
        time.sleep(2.5)
    for sender in senders:
        assert sender.failed_again == []  # a failed message is retried after a second
        assert sender.stored() == sender.sent
