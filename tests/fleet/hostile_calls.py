"""Send hostile requests to every endpoint, restore what they destroy, and record wrong answers."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from deploy.endpoint_table import all_endpoints
from shared.http.endpoint import Auth, Endpoint, paths_of
from tests.fix_fleet import RunningFleet
from tests.fleet.answer_rules import faults_of
from tests.fleet.people import Person, register
from tests.fleet.raw_http import Answer, exchange, request_bytes
from tests.fleet.request_table import ASKS_OTHERS, VALID, Valid, fill

PASSWORD = "S3cret-hive-of-bees"
_PARAMETER = re.compile(r"\{([A-Za-z]+)\??\}")
_SHOWN_BYTES = 160

Expected = Callable[[Answer], str | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One request in parts.

    path, query: as sent, percent-encoded
    token: None for no `Authorization` header
    """

    endpoint: Endpoint
    method: str
    path: str
    query: str
    body: bytes
    token: str | None


@dataclass(slots=True)
class Hostility:
    """A user with a room, an event, an alias, a device and a filter, and the faults found with them.

    They are created again when a request destroys one of them.

    secrets: all tokens and passwords that were in use
    """

    fleet: RunningFleet
    faults: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=lambda: {PASSWORD})
    calls: int = 0
    other: Person = field(init=False)
    me: Person = field(init=False)
    values: dict[str, str] = field(init=False, default_factory=dict)
    _people: int = 0
    _transactions: int = 0

    def __post_init__(self) -> None:
        self.other = self._register("bystander")
        self.renew()

    def renew(self) -> None:
        """Create another user with a room, an event, an alias and a filter."""
        self._people += 1
        self.me = self._register(f"hostile{self._people}")
        room = self.me.create_room(room_alias_name=f"hive{self._people}")
        event = self.me.send(room, "first", {"msgtype": "m.text", "body": "hello"}).json()["event_id"]
        user = quote(self.me.user_id, safe="")
        self.values = {
            "me": self.me.user_id,
            "other": self.other.user_id,
            "room": room,
            "event": event,
            "alias": f"#hive{self._people}:{self.fleet.server_name}",
            "device": self.me.device_id,
            "filter": self.me.ask("POST", f"/user/{user}/filter", {"room": {}})["filter_id"],
            "password": PASSWORD,
        }

    def valid(self, endpoint: Endpoint) -> tuple[Valid, Call]:
        """Return the endpoint's entry in the table and the valid call that it describes."""
        line = VALID[endpoint.name]
        query = "&".join(f"{name}={quote(fill(value, self.values))}" for name, value in line.query.items())
        body = b"" if line.body is None else json.dumps(self.body(endpoint)).encode()
        path = self.path(endpoint, {})
        token = self.me.token if endpoint.auth in (Auth.ACCESS_TOKEN, Auth.OPTIONAL) else None
        return line, Call(endpoint, endpoint.method, path, query, body, token)

    def body(self, endpoint: Endpoint) -> Any:
        return fill(dict(VALID[endpoint.name].body or {}), self.values)

    def path(self, endpoint: Endpoint, spoilt: dict[str, str]) -> str:
        """Return the path. spoilt: parameters to replace, by name, as sent."""

        def parameter(match: "re.Match[str]") -> str:
            name = match[1]
            if name in spoilt:
                return spoilt[name]
            value = fill(VALID[endpoint.name].params.get(name, "x"), self.values)
            if name == "txnId":
                self._transactions += 1
                value = f"{value}-{self._transactions}"
            return quote(value, safe="")

        return _PARAMETER.sub(parameter, paths_of(endpoint)[0])

    def send(self, call: Call, what: str, expected: Expected | None = None) -> Answer | None:
        """Send a call and record every fault of the answer.

        what: describes the call in a fault
        expected: returns a further fault of the answer, or None
        """
        self.calls += 1
        if call.token is not None:
            self.secrets.add(call.token)
        target = f"{call.path}?{call.query}" if call.query else call.path
        headers = {} if call.token is None else {"Authorization": f"Bearer {call.token}"}
        url = self.fleet.federation_url if is_federation(call.endpoint) else self.fleet.client_url
        request = request_bytes(call.method, target.encode(), headers=headers, body=call.body)
        where = f"{call.endpoint.name}, {what}: {call.method} {target[:_SHOWN_BYTES]} {call.body[:_SHOWN_BYTES]!r}"
        try:
            answer = exchange(url, request, method=call.method)
        except OSError as error:
            self.faults.append(f"{where}: no answer, {error!r}")
            return None
        found = faults_of(answer, asks_others=call.endpoint.name in ASKS_OTHERS)
        if expected is not None and (wrong := expected(answer)) is not None:
            found.append(f"{wrong}: {answer.body[:_SHOWN_BYTES]!r}")
        self.faults.extend(f"{where} -> {answer.status}: {fault}" for fault in found)
        if VALID[call.endpoint.name].destroys and answer.status < 400:
            self.renew()
        return answer

    def report(self) -> None:
        """Fail if faults were recorded since the last report. The message shows two of each kind and endpoint."""
        noted, self.faults = self.faults, []
        shown: dict[tuple[str, str], list[str]] = {}
        for fault in noted:
            shown.setdefault((fault.partition(",")[0], fault.rpartition("->")[2][:60]), []).append(fault)
        lines = [line for lines in shown.values() for line in lines[:2]]
        assert not noted, f"{len(noted)} faults:\n" + "\n".join(lines[:150])

    def _register(self, name: str) -> Person:
        person = register(self.fleet, name, PASSWORD)
        self.secrets.add(person.token)
        return person


def outside_endpoints() -> Iterator[Endpoint]:
    """Yield the endpoints that clients and other servers can reach."""
    return (endpoint for endpoint in all_endpoints() if endpoint.auth is not Auth.INTERNAL)


def parameters_of(endpoint: Endpoint) -> list[str]:
    return _PARAMETER.findall(paths_of(endpoint)[0])


def is_federation(endpoint: Endpoint) -> bool:
    """Return True if only the federation port serves this endpoint."""
    return paths_of(endpoint)[0].startswith(("/_matrix/federation/", "/_matrix/key/"))


def refused(*errcodes: str) -> Expected:
    """Return a check that the answer is an error with one of these codes."""

    def check(answer: Answer) -> str | None:
        found = answer.errcode if answer.status >= 400 else None
        return None if found in errcodes else f"{answer.status} {found} where {' or '.join(errcodes)} is right"

    return check
