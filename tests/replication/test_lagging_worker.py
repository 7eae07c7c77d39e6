"""Workers whose replication is two seconds late, and then stops.

Read after write (architecture page, section 4; note A6), and log-outs within a second (note B14).
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.faults.redis_proxy import RedisProxy, Weather
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import Answer, call

_LATE_S = 2.0
pytestmark = pytest.mark.fleet
_LIMIT_S = 20.0
_BITES_WITHIN_S = 1.0
_SLACK_S = 0.5  # of a busy machine


class _Late(Weather):
    def fate(self, rng: random.Random, channel: str, message: bytes) -> list[float]:
        return [_LATE_S]


_DEAF = Weather(lose=1.0)


@dataclass(slots=True)
class Lagging:
    """A fleet with lagging workers. synchrotron, client_api: their addresses."""

    fleet: RunningFleet
    proxy: RedisProxy
    synchrotron: str
    client_api: str

    def ask(self, address: str, person: Person, method: str, path: str, body: Any = b"") -> Answer:
        return call(f"http://{address}", method, CLIENT + path, token=person.token, body=body)


@pytest.fixture(scope="module")
def lagging() -> Iterator[Lagging]:
    for fleet in run_fleet({"fleet": {"event_persister": 1, "synchrotron": 1, "media": 0, "background": 0}}):
        config = yaml.safe_load(fleet.config.read_text())
        proxy = RedisProxy(config["redis"]["port"], seed=1)
        config["redis"]["port"] = proxy.port
        behind = fleet.config.with_name("behind.yaml")
        behind.write_text(yaml.safe_dump(config))
        behind.chmod(0o600)
        before = set(_ready(fleet))
        fleet.config, ours = behind, fleet.config
        for worker_type in ("synchrotron", "client_api"):
            fleet.add_worker(worker_type)
        fleet.config = ours
        end = time.monotonic() + _LIMIT_S
        while len(new := {each[0]: each for each in set(_ready(fleet)) - before}) < 2:
            assert time.monotonic() < end, fleet.logs()
            time.sleep(0.2)
        proxy.weather = _Late()
        yield Lagging(fleet, proxy, new["synchrotron"][1], new["client_api"][1])
    proxy.close()


def _ready(fleet: RunningFleet) -> list[tuple[str, str]]:
    return [(each["type"], each["address"]) for each in fleet.status()["processes"] if each.get("ready")]


def test_lagging_workers_serve_everything_written_before(lagging: Lagging) -> None:
    fleet, reads, others = lagging.fleet, lagging.synchrotron, lagging.client_api
    alice, bob = register(fleet, "alice"), register(fleet, "bob")
    room_id = alice.create_room(room_alias_name="lagging")
    room = f"/rooms/{quote(room_id, safe='')}"
    assert lagging.ask(reads, bob, "GET", "/sync").status == 200  # loads the user into its memory
    since = lagging.ask(reads, alice, "GET", "/sync").json()["next_batch"]
    for number in range(2):
        bob.ask("POST", f"{room}/join", {})
        sent = bob.send(room_id, f"t{number}", {"msgtype": "m.text", "body": "x"}).json()["event_id"]
        bob.ask("PUT", f"/user/{bob.user_id}/account_data/org.example", {"n": number})
        bob.ask("POST", f"{room}/receipt/m.read/{quote(sent)}", {})
        bob.ask("PUT", f"/profile/{bob.user_id}/displayname", {"displayname": f"Bob {number}"})
        alias = f"#made{number}:{fleet.server_name}"
        alice.ask("PUT", f"/directory/room/{quote(alias)}", {"room_id": room_id})
        first = lagging.ask(reads, bob, "GET", "/sync").json()
        joined = first["rooms"]["join"][room_id]
        assert sent in [event["event_id"] for event in joined["timeline"]["events"]]
        assert sent in str(joined["ephemeral"])
        assert {"type": "org.example", "content": {"n": number}} in first["account_data"]["events"]
        page = lagging.ask(reads, bob, "GET", f"{room}/messages?dir=b&limit=10").json()["chunk"]
        assert sent in [event["event_id"] for event in page]
        # The token that another process returned to alice.
        synced = alice.ask("GET", f"/sync?since={since}&timeout=5000")
        token = synced["next_batch"]
        for reader in (alice, bob):
            assert lagging.ask(reads, reader, "GET", f"{room}/event/{quote(sent)}").status == 200
            members = lagging.ask(reads, reader, "GET", f"{room}/members").json()["chunk"]
            assert [m["content"]["displayname"] for m in members if m["state_key"] == bob.user_id] == [f"Bob {number}"]
            profile = lagging.ask(others, reader, "GET", f"/profile/{bob.user_id}").json()
            assert profile["displayname"] == f"Bob {number}"
            found = lagging.ask(others, reader, "GET", f"/directory/room/{quote(alias)}").json()
            assert found["room_id"] == room_id
        mine = lagging.ask(others, bob, "GET", f"/user/{bob.user_id}/account_data/org.example").json()
        assert mine == {"n": number}
        began = time.monotonic()
        caught_up = lagging.ask(reads, alice, "GET", f"/sync?since={token}&timeout=0")
        assert caught_up.status == 200 and time.monotonic() - began < _LATE_S
        assert sent not in str(caught_up.json())


@pytest.mark.parametrize(("way", "weather"), [("logout", _Late()), ("delete_device", _DEAF), ("password", _DEAF)])
def test_log_out_takes_effect_within_a_second_on_lagging_workers(lagging: Lagging, weather: Weather, way: str) -> None:
    """It takes effect at every worker, and ends long polls. Another device of the user still works."""
    person = register(lagging.fleet, way)
    lagging.proxy.weather = weather
    other = call(
        lagging.fleet.client_url,
        "POST",
        f"{CLIENT}/login",
        body={
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": person.user_id},
            "password": person.password,
        },
    ).json()
    stays = Person(person.url, person.user_id, person.password, other["device_id"], other["access_token"])
    persister = lagging.fleet.processes()["event_persister-1"]["address"]
    calls: dict[str, Callable[[], Answer]] = {
        "synchrotron": lambda: lagging.ask(lagging.synchrotron, person, "GET", "/sync?timeout=0"),
        "client_api": lambda: lagging.ask(lagging.client_api, person, "GET", "/account/whoami"),
        "persister": lambda: lagging.ask(persister, person, "POST", "/rooms/!none:x/leave", {}),
    }
    for name, ask in calls.items():
        assert ask().status != 401, name
    since = lagging.ask(lagging.synchrotron, person, "GET", "/sync").json()["next_batch"]
    polls: list[tuple[int, float]] = []

    def poll() -> None:
        answer = lagging.ask(lagging.synchrotron, person, "GET", f"/sync?since={since}&timeout=15000")
        polls.append((answer.status, time.monotonic()))

    waiting = threading.Thread(target=poll, daemon=True)
    waiting.start()
    time.sleep(0.5)
    for ask in calls.values():
        ask()
    _end(way, person, stays)
    ended = time.monotonic()
    accepted = dict.fromkeys(calls, ended)
    while time.monotonic() < ended + _BITES_WITHIN_S + _SLACK_S:
        for name, ask in calls.items():
            asked = time.monotonic()
            if ask().status != 401:
                accepted[name] = asked
        time.sleep(0.02)
    assert all(last - ended < _BITES_WITHIN_S for last in accepted.values()), accepted
    waiting.join(5)
    assert [status for status, _ in polls] == [401]
    assert polls[0][1] - ended < _BITES_WITHIN_S + _SLACK_S
    assert lagging.ask(lagging.synchrotron, stays, "GET", "/sync").status == 200
    assert lagging.ask(lagging.client_api, stays, "GET", "/account/whoami").status == 200


def _end(way: str, person: Person, stays: Person) -> None:
    """End a session through haproxy, by its own request or by that of another device."""
    if way == "logout":
        person.ask("POST", "/logout", {})
        return
    auth: dict[str, Any] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": person.user_id},
        "password": person.password,
    }
    path, body = "/account/password", {"new_password": "another horse battery"}
    if way == "delete_device":
        path, body = "/delete_devices", {"devices": [person.device_id]}  # type: ignore[dict-item]
    first = stays.call("POST", path, body)
    assert first.status == 401
    answer = stays.call("POST", path, {**body, "auth": {**auth, "session": first.json()["session"]}})
    assert answer.status == 200, answer
