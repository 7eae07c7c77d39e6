"""Calls operations by name, validates each answer against its schema, and records the statuses."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import Answer, call
from tests.spec_walk.operations import Operation, operations
from tests.spec_walk.schema_faults import faults


@dataclass(slots=True)
class Walker:
    """A client for operations of the specification. met: operation -> (status, errcode) of its answers."""

    fleet: RunningFleet
    met: defaultdict[str, set[tuple[int, str]]] = field(default_factory=lambda: defaultdict(set))
    _people: int = 0

    def person(self, name: str = "walker") -> Person:
        """Return a new user."""
        self._people += 1
        return register(self.fleet, f"{name}-{self._people}")

    def ok(
        self,
        who: Person | None,
        name: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        **parameters: str,
    ) -> Any:
        """Call an operation that must succeed; return the JSON of its answer. parameters: path parameters."""
        return self._call(200, "", who, name, query, body, parameters).json()

    def refused(
        self,
        who: Person | None,
        name: str,
        status: int,
        errcode: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        **parameters: str,
    ) -> Any:
        """Call an operation that must fail with this status and errcode; return the JSON of its answer."""
        return self._call(status, errcode, who, name, query, body, parameters).json()

    def _call(
        self,
        status: int,
        errcode: str,
        who: Person | None,
        name: str,
        query: Mapping[str, Any] | None,
        body: Any,
        parameters: Mapping[str, str],
    ) -> Answer:
        operation = operations()[name]
        target = _target(operation, parameters, query or {})
        sent = b"" if body is None else body
        token = who.token if who is not None else None
        answer = call(self.fleet.client_url, operation.method, target, token=token, body=sent)
        assert answer.status == status, (operation.method, target, answer.status, answer.body)
        if status != 200:
            assert answer.json().get("errcode", "") == errcode, (operation.method, target, answer.body)
        schema = operation.responses.get(status)
        if name == "getRoomStateWithKey" and status == 200 and (query or {}).get("format") != "event":
            schema = {"type": "object"}  # the schema describes the whole event; the default answer is its content
        found = list(faults(schema, operation.file, answer.json()))
        assert not found, (operation.method, target, found, answer.body[:2000])
        self.met[name].add((status, errcode))
        return answer


def _target(operation: Operation, parameters: Mapping[str, str], query: Mapping[str, Any]) -> str:
    path = operation.path
    for key, value in parameters.items():
        assert f"{{{key}}}" in path, (operation.name, key)
        path = path.replace(f"{{{key}}}", quote(value, safe=""))
    assert "{" not in path, (operation.name, path)
    unknown = {key for key in query if key not in operation.query and "." not in key}
    assert not unknown, (operation.name, unknown)
    return path + ("?" + urlencode(query, doseq=True) if query else "")
