"""`skep up` killed and started again: its processes keep serving and are adopted, or replaced one by one."""

import time
from typing import Any

import pytest
import yaml

from deploy.local.adoption import release_of, servers_of
from deploy.local.identity import start_ticks
from shared.config.generate import development_yaml, write_secrets
from shared.config.load import load_config
from tests.fix_fleet import RunningFleet, StartFleet
from tests.fleet.steady_senders import steady_senders

_FLEET = {
    "event_persister": 2,
    "synchrotron": 1,
    "client_api": 1,
    "federation_reader": 0,
    "federation_sender": 0,
    "background": 0,
    "media": 0,
}


def pids(fleet: RunningFleet) -> dict[str, int]:
    return {name: each["pid"] for name, each in fleet.processes().items() if name != "supervisor"}


def test_running_processes_are_adopted_or_replaced_one_by_one(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet=_FLEET)
    before = pids(fleet)
    with steady_senders(fleet) as [sender]:
        fleet.kill("supervisor")
        time.sleep(0.5)
        fleet.start_again()
        assert pids(fleet) == before
        assert sender.failed == []

        # The new supervisor restarts adopted processes like its own.
        fleet.kill("event_persister-1")
        fleet.kill("redis")
        _until(fleet, lambda now: {n for n in now if now[n] != before[n]} == {"event_persister-1", "redis"})
        assert sender.failed_again == []

        # With another configuration every process except the servers is replaced while the others serve.
        before = pids(fleet)
        fleet.kill("supervisor")
        path = fleet.directory / "skep.yaml"
        config = yaml.safe_load(path.read_text())
        config["logging"] = {"level": "warning"}
        path.write_text(yaml.safe_dump(config))
        fleet.start_again()
        after = pids(fleet)
        assert {name for name in after if after[name] == before[name]} == {"postgres", "redis"}
        assert after.keys() == before.keys()
        assert sender.failed_again == []
    assert sender.stored() == sender.sent
    gone = [pid for name, pid in before.items() if name not in ("postgres", "redis")]
    assert [pid for pid in gone if start_ticks(pid) is not None] == []
    left = pids(fleet)
    assert fleet.stop() < 10
    assert [pid for pid in left.values() if start_ticks(pid) is not None] == []


def _until(fleet: RunningFleet, condition: Any) -> None:
    end = time.monotonic() + 10
    while True:
        now = pids(fleet)
        if condition(now) and all(start_ticks(pid) is not None for pid in now.values()):
            return
        assert time.monotonic() < end, (now, fleet.logs())
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("changed", "release", "servers"),
    [
        ({}, True, True),
        ({"logging": {"level": "debug"}}, False, True),
        ({"fleet": {"synchrotron": 3}}, False, True),
        ({"database": {"hosts": ["db1"]}}, False, False),
        ({"redis": {"host": "redis1"}}, False, False),
        ({"server_name": "other.example"}, False, False),
    ],
)
def test_which_settings_change_the_release_and_the_servers(
    tmp_path: Any, changed: dict[str, Any], release: bool, servers: bool
) -> None:
    write_secrets(tmp_path)
    raw = yaml.safe_load(development_yaml(8008, 8448))
    path = tmp_path / "skep.yaml"
    path.write_text(yaml.safe_dump(raw))
    one = load_config(path, {})
    path.write_text(yaml.safe_dump({**raw, **changed}))
    other = load_config(path, {})
    assert (release_of(one) == release_of(other), servers_of(one) == servers_of(other)) == (release, servers)
