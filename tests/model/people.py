"""People with several devices, who call the workers of a fleet, a synchrotron of their own choice too."""

import http.client
import json
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tests.fix_fleet import RunningFleet
from tests.fleet.people import CLIENT, register
from tests.fleet.raw_http import call


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Connections that are kept open, one for each process."""

    def __init__(self) -> None:
        self._open: dict[str, http.client.HTTPConnection] = {}

    def call(self, url: str, method: str, target: str, token: str | None, body: Any = None) -> Answer:
        place = urlsplit(url).netloc
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        sent = b"" if body is None else json.dumps(body).encode()
        for _ in range(2):  # a connection that was idle for too long is closed by the other end
            connection = self._open.setdefault(place, http.client.HTTPConnection(place, timeout=30))
            try:
                connection.request(method, target, sent, headers)
                response = connection.getresponse()
                return Answer(response.status, response.read())
            except (http.client.HTTPException, ConnectionError):
                self._open.pop(place).close()
        raise AssertionError(f"{place} does not answer")


@dataclass(slots=True)
class Device:
    """One device of a user; what `ModelClient` wants of a client."""

    caller: Caller
    url: str
    synchrotrons: tuple[str, ...]
    user_id: str
    token: str
    dice: random.Random

    async def sync(self, since: str | None = None, **query: Any) -> Any:
        if since is not None:
            query["since"] = since
        answer = self.get("/sync", query, self.dice.choice(self.synchrotrons))
        assert answer.status == 200, answer.body
        return answer.json

    async def room(self, room_id: str, path: str, **query: Any) -> Answer:
        return self.get(f"/rooms/{quote(room_id, safe='')}/{path}", query, self.dice.choice(self.synchrotrons))

    def get(self, path: str, query: dict[str, Any], url: str | None = None) -> Answer:
        target = CLIENT + path + ("?" + urlencode({key: _text(value) for key, value in query.items()}) if query else "")
        return self.caller.call(url or self.url, "GET", target, self.token)

    def do(self, method: str, path: str, body: Any = None) -> Answer:
        return self.caller.call(self.url, method, CLIENT + path, self.token, body)


@dataclass(slots=True)
class Human:
    """A user. devices: all of them see the same."""

    user_id: str
    password: str
    devices: list[Device] = field(default_factory=list)

    def do(self, method: str, path: str, body: Any = None) -> Answer:
        return self.devices[0].do(method, path, body)


class Village:
    """The people of one run on one fleet."""

    def __init__(self, fleet: RunningFleet, dice: random.Random) -> None:
        self.fleet = fleet
        self.dice = dice
        self.caller = Caller()
        self.server_name = fleet.server_name
        processes = fleet.processes().values()
        self.synchrotrons = tuple(
            f"http://{each['address']}" for each in processes if each["name"].startswith("synchrotron")
        )
        self.persisters = tuple(
            f"http://{each['address']}" for each in processes if each["name"].startswith("event_persister")
        )

    def human(self, name: str, devices: int = 2) -> Human:
        person = register(self.fleet, name)
        human = Human(person.user_id, person.password)
        human.devices.append(self._device(person.user_id, person.token))
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
        return self._device(human.user_id, answer.json()["access_token"])

    def guest(self) -> Human:
        answer = call(self.fleet.client_url, "POST", f"{CLIENT}/register?kind=guest", body={})
        assert answer.status == 200, answer
        made = answer.json()
        return Human(made["user_id"], "", [self._device(made["user_id"], made["access_token"])])

    def rows_read(self, stream: str) -> list[float]:
        """Return how many rows of a stream each persister has taken in."""
        found = []
        for url in self.persisters:
            text = self.caller.call(url, "GET", "/metrics", None).body.decode()
            name = f'skep_replication_rows_total{{stream="{stream}"}}'
            values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
            found.append(float(values[0]) if values else 0.0)
        return found

    def _device(self, user_id: str, token: str) -> Device:
        return Device(self.caller, self.fleet.client_url, self.synchrotrons, user_id, token, self.dice)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)
