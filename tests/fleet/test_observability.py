"""A request's id and spans can be followed through every process that handles it."""

import re
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from tests.fix_fleet import RunningFleet
from tests.fleet.jaeger_agent import JaegerAgent, Span
from tests.fleet.people import CLIENT, register
from tests.fleet.raw_http import call

_WORKERS = {"main", "event_persister", "synchrotron", "client_api", "federation_reader"}
_PLAIN = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) +(?P<process>\S+)"
    r" \[(?P<request>[^\]]*)\] (?P<logger>[A-Za-z0-9_.]+): (?P<message>.*)"
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def _logs(fleet: RunningFleet) -> dict[str, Path]:
    """Return the log files of Skep's processes, by process name."""
    return {
        name: fleet.directory / "logs" / f"{name}.log"
        for name, each in fleet.processes().items()
        if each["type"] in _WORKERS
    }


def _entries(fleet: RunningFleet) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [orjson.loads(line) for line in path.read_bytes().splitlines()] for name, path in _logs(fleet).items()
    }


def test_json_logs_parse(watched_fleet: RunningFleet) -> None:
    logs = _entries(watched_fleet)
    assert {name.rpartition("-")[0] for name in logs} == _WORKERS
    for name, entries in logs.items():
        assert any("is ready at" in entry["message"] for entry in entries), name
        for entry in entries:
            assert {"time", "level", "process", "request", "logger", "message"} <= set(entry), entry
            assert entry["process"] == name
            assert entry["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
            assert abs(datetime.fromisoformat(entry["time"]).timestamp() - time.time()) < 3600


def test_plain_logs_parse(limited_fleet: RunningFleet) -> None:
    for name, path in _logs(limited_fleet).items():
        lines = path.read_text().splitlines()
        assert lines
        for line in lines:
            found = _PLAIN.fullmatch(line)
            assert found is not None, (name, line)
            assert found["process"] == name
            datetime.fromisoformat(found["time"])


def _join_by_alias(fleet: RunningFleet, name: str, times: int) -> None:
    """Join by alias. haproxy sends these requests to the persisters in turn, and one of two must forward them."""
    person = register(fleet, name)
    person.create_room(room_alias_name=name)
    alias = quote(f"#{name}:{fleet.server_name}", safe="")
    for _ in range(times):
        person.ask("POST", f"/join/{alias}", {})


def test_request_keeps_one_id_in_all_processes(watched_fleet: RunningFleet) -> None:
    _join_by_alias(watched_fleet, "followed", 4)
    processes: dict[str, set[str]] = defaultdict(set)
    for name, entries in _entries(watched_fleet).items():
        for entry in entries:
            if "join_room_by_id_or_alias" in entry["message"] or "join_room " in entry["message"]:
                processes[entry["request"]].add(name)
    passed_on = [request for request, names in processes.items() if len(names) == 2]
    assert passed_on, processes
    for request, names in processes.items():
        assert _UUID.fullmatch(request), request  # made by haproxy, never "-"
        assert {name.rpartition("-")[0] for name in names} == {"event_persister"}


def test_request_ids_from_clients_are_ignored(watched_fleet: RunningFleet) -> None:
    sent = "5c0ffee5-0000-4000-8000-000000000000"
    answer = call(watched_fleet.client_url, "GET", f"{CLIENT}/capabilities", headers={"X-Request-Id": sent})
    assert answer.status == 401
    assert all(entry["request"] != sent for entries in _entries(watched_fleet).values() for entry in entries)


def _parents_elsewhere(spans: list[Span]) -> list[tuple[Span, Span]]:
    """Return (parent, child) pairs whose child was made by another process."""
    by_id = {(span.trace, span.span): span for span in spans}
    pairs = ((by_id.get((span.trace, span.parent)), span) for span in spans if span.parent)
    return [(parent, child) for parent, child in pairs if parent is not None and parent.process != child.process]


def test_spans_cross_processes(watched_fleet: RunningFleet, jaeger_agent: JaegerAgent) -> None:
    _join_by_alias(watched_fleet, "traced", 4)
    person = register(watched_fleet, "renamed")
    person.create_room()
    person.ask("PUT", f"/profile/{quote(person.user_id, safe='')}/displayname", {"displayname": "Queen"})

    def found(spans: list[Span]) -> Any:
        pairs = {(p.service, p.operation, c.service, c.operation) for p, c in _parents_elsewhere(spans)}
        join, persister = "join_room_by_id_or_alias", "skep-event_persister"
        passed_on = [
            pair for pair in pairs if pair[:2] == (persister, join) and pair[2] == persister and "join" in pair[3]
        ]
        renamed = ("skep-client_api", "set_profile_field", persister, "set_member_profile") in pairs
        return passed_on and renamed

    jaeger_agent.wait_for(found)
    assert jaeger_agent.broken == []
    roots = {span.operation for span in jaeger_agent.spans if not span.parent}
    assert {"register", "create_room", "join_room_by_id_or_alias"} <= roots
    for parent, child in _parents_elsewhere(jaeger_agent.spans):
        assert parent.trace == child.trace


def test_clients_cannot_start_traces(watched_fleet: RunningFleet, jaeger_agent: JaegerAgent) -> None:
    """A client must not force tracing of its requests past the configured share."""
    headers = ("uber-trace-id: 7:7:0:1", "Uber-Trace-Id: 7:8:0:3", "jaeger-debug-id: mine", "uberctx-x: y")
    for url in (watched_fleet.client_url, watched_fleet.federation_url):
        path = "/_matrix/client/versions" if url.startswith("http:") else "/_matrix/key/v2/server"
        for header in headers:
            name, _, value = header.partition(": ")
            assert call(url, "GET", path, headers={name: value}).status == 200
    before = len(jaeger_agent.spans)
    call(watched_fleet.client_url, "GET", "/_matrix/client/versions")
    jaeger_agent.wait_for(lambda spans: len(spans) > before)
    assert all(span.trace != 7 for span in jaeger_agent.spans)


def test_no_spans_when_tracing_is_off(limited_fleet: RunningFleet, idle_jaeger_agent: JaegerAgent) -> None:
    for _ in range(20):
        assert call(limited_fleet.client_url, "GET", "/_matrix/client/versions").status == 200
    time.sleep(1.5)  # jaeger-client reports once a second
    assert idle_jaeger_agent.datagrams == 0
