"""Users with several devices, who call a fleet through haproxy or any synchrotron directly."""

import asyncio
import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import asyncpg

from shared.config.addresses import database_dsn
from shared.config.load import load_config
from tests.fix_fleet import RunningFleet
from tests.fleet.people import CLIENT, register
from tests.fleet.raw_http import call

_PATIENCE_S = 30.0


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """An HTTP client that keeps one connection to each process open."""

    def __init__(self) -> None:
        self._open: dict[str, http.client.HTTPConnection] = {}

    def call(self, url: str, method: str, target: str, token: str | None, body: Any = None) -> Answer:
        """Send a request and return the answer. Raises ConnectionError."""
        place = urlsplit(url).netloc
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        sent = b"" if body is None else json.dumps(body).encode()
        for _ in range(2):  # the other end closes a connection that was idle for too long
            connection = self._open.setdefault(place, http.client.HTTPConnection(place, timeout=30))
            try:
                connection.request(method, target, sent, headers)
                response = connection.getresponse()
                return Answer(response.status, response.read())
            except (http.client.HTTPException, ConnectionError):
                self._open.pop(place).close()
        raise ConnectionError(f"{place} does not answer")


@dataclass(slots=True)
class Device:
    """One device of a user, with the interface that `ModelClient` needs."""

    village: "Village"
    user_id: str
    token: str

    async def sync(self, since: str | None = None, **query: Any) -> Any:
        if since is not None:
            query["since"] = since
        answer = self.read("GET", CLIENT + "/sync" + _query(query), anywhere=True)
        assert answer.status == 200, answer.body
        return answer.json

    async def room(self, room_id: str, path: str, **query: Any) -> Answer:
        return self.read("GET", f"{CLIENT}/rooms/{quote(room_id, safe='')}/{path}{_query(query)}", anywhere=True)

    def get(self, path: str, query: dict[str, Any] | None = None) -> Answer:
        return self.read("GET", CLIENT + path + _query(query or {}))

    def read(self, method: str, target: str, body: Any = None, *, anywhere: bool = False) -> Answer:
        """Send a read request. anywhere: to a random synchrotron instead of through haproxy."""
        return self.village.read(method, target, self.token, body, anywhere=anywhere)

    def do(self, method: str, path: str, body: Any = None) -> Answer:
        return self.village.caller.call(self.village.fleet.client_url, method, CLIENT + path, self.token, body)


@dataclass(slots=True)
class Human:
    """A user with devices that all see the same."""

    user_id: str
    password: str
    devices: list[Device] = field(default_factory=list)

    def do(self, method: str, path: str, body: Any = None) -> Answer:
        return self.devices[0].do(method, path, body)

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """Send a GET request, assert status 200 and return the JSON."""
        answer = self.devices[0].get(path, query)
        assert answer.status == 200, (path, answer.body)
        return answer.json


class Village:
    """The users of one run on one fleet. deadly: synchrotrons are killed, so reads are retried."""

    def __init__(self, fleet: RunningFleet, dice: random.Random, *, deadly: bool = False) -> None:
        self.fleet = fleet
        self.caller = Caller()
        self.deadly = deadly
        self._dice = dice
        self._synchrotrons = self._addresses("synchrotron")
        self._persisters = self._addresses("event_persister")

    def human(self, name: str, devices: int = 2) -> Human:
        person = register(self.fleet, name)
        human = Human(person.user_id, person.password, [Device(self, person.user_id, person.token)])
        for _ in range(devices - 1):
            human.devices.append(self.new_device(human))
        return human

    def new_device(self, human: Human) -> Device:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": human.user_id},
            "password": human.password,
        }
        answer = call(self.fleet.client_url, "POST", f"{CLIENT}/login", body=body)
        assert answer.status == 200, answer
        return Device(self, human.user_id, answer.json()["access_token"])

    def guest(self) -> Human:
        answer = call(self.fleet.client_url, "POST", f"{CLIENT}/register?kind=guest", body={})
        assert answer.status == 200, answer
        made = answer.json()
        return Human(made["user_id"], "", [Device(self, made["user_id"], made["access_token"])])

    def read(self, method: str, target: str, token: str | None, body: Any, *, anywhere: bool) -> Answer:
        end = time.monotonic() + _PATIENCE_S
        while True:
            url = self._dice.choice(self._synchrotrons) if anywhere else self.fleet.client_url
            try:
                answer = self.caller.call(url, method, target, token, body)
                if not (self.deadly and answer.status in (502, 503, 504)):
                    return answer
            except OSError:
                if not self.deadly:
                    raise
            assert time.monotonic() < end, "no synchrotron answers"
            time.sleep(0.05)
            self._synchrotrons = self._addresses("synchrotron")

    def kill_a_synchrotron(self) -> None:
        name = self._dice.choice([name for name in self.fleet.processes() if name.startswith("synchrotron")])
        self.fleet.kill(name)

    def rows_read(self, stream: str) -> list[float]:
        """Return the number of rows of a stream that each persister has read."""
        found = []
        for url in self._persisters:
            text = self.caller.call(url, "GET", "/metrics", None).body.decode()
            name = f'skep_replication_rows_total{{stream="{stream}"}}'
            values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
            found.append(float(values[0]) if values else 0.0)
        return found

    def settings_to_copy(self, user_id: str, room_id: str) -> bool:
        """Return True if the user's settings for a room's predecessor are still to be copied."""

        async def ask() -> bool:
            connection = await asyncpg.connect(database_dsn(load_config(self.fleet.config).database))
            try:
                query = "SELECT count(*) FROM settings_to_copy WHERE user_id = $1 AND new_room_id = $2"
                return bool(await connection.fetchval(query, user_id, room_id))
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as elsewhere:  # an event loop runs in this thread
            return elsewhere.submit(asyncio.run, ask()).result()

    def _addresses(self, worker_type: str) -> list[str]:
        processes = self.fleet.processes().values()
        return [f"http://{each['address']}" for each in processes if each["name"].startswith(worker_type)]


def _query(query: dict[str, Any]) -> str:
    return "?" + urlencode({key: _text(value) for key, value in query.items()}) if query else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)
