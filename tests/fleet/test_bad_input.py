"""Hostile requests to every declared endpoint, through haproxy: they get the spec's errors and never a 500.

A fault names the endpoint, the damage to the request, and the fault of the answer.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shared.http.endpoint import Auth, Endpoint
from tests.fix_fleet import RunningFleet
from tests.fix_special_fleets import MAX_BODY_BYTES
from tests.fleet import hostile_values as hostile
from tests.fleet.answer_rules import faults_of
from tests.fleet.hostile_calls import (
    PASSWORD,
    Call,
    Hostility,
    is_federation,
    outside_endpoints,
    parameters_of,
    refused,
)
from tests.fleet.people import CLIENT, register
from tests.fleet.raw_http import call as call_http
from tests.fleet.raw_http import exchange, request_bytes
from tests.fleet.request_table import VALID, fill

T = TypeVar("T")
ENDPOINTS = tuple(outside_endpoints())
WITH_BODY = tuple(each for each in ENDPOINTS if VALID[each.name].body is not None)


def one_in(number: int) -> pytest.MarkDecorator:
    """Send each `number`th request of a test, and all of them in `make soak`."""
    return pytest.mark.parametrize("step", [number, pytest.param(1, marks=pytest.mark.soak, id="everything")])


class Thinned:
    """Takes each `step`th value, counted over all calls, so that every value meets some endpoint."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._shown = 0

    def of(self, values: Iterable[T]) -> Iterator[T]:
        for value in values:
            self._shown += 1
            if self._shown % self._step == 0:
                yield value


@pytest.fixture(scope="module")
def hostility(watched_fleet: RunningFleet) -> Iterator[Hostility]:
    yield Hostility(watched_fleet)


def test_every_endpoint_has_a_valid_request_in_the_table(hostility: Hostility) -> None:
    assert {each.name for each in ENDPOINTS} == set(VALID)
    for endpoint in ENDPOINTS:
        _, valid = hostility.valid(endpoint)
        answer = hostility.send(valid, "the valid request")
        assert answer is not None
        if valid.body and answer.status >= 400:
            assert answer.errcode not in ("M_NOT_JSON", "M_BAD_JSON", "M_MISSING_PARAM"), (
                endpoint.name,
                answer,
            )
    hostility.report()


@one_in(3)
def test_body_that_is_not_a_json_object_is_refused(hostility: Hostility, step: int) -> None:
    some = Thinned(step)
    for endpoint in WITH_BODY:
        line, valid = hostility.valid(endpoint)
        reads_it = not (line.empty_ok and not line.body)
        for what, body in some.of(hostile.NOT_JSON.items()):
            _, valid = hostility.valid(endpoint)
            demanded = refused("M_NOT_JSON") if reads_it and not (line.empty_ok and not body) else None
            hostility.send(replace(valid, body=body), what, demanded)
        for body in some.of(hostile.NOT_OBJECT):
            _, valid = hostility.valid(endpoint)
            hostility.send(replace(valid, body=body), "no object", refused("M_BAD_JSON") if reads_it else None)
        for levels in (200, 100_000):
            for objects in (True, False):
                _, valid = hostility.valid(endpoint)
                # Strangers may send 16 KiB only, and a body of very many values is refused before it is decoded.
                demanded = refused("M_BAD_JSON", "M_NOT_JSON", *(["M_TOO_LARGE"] if levels > 10_000 else []))
                hostility.send(
                    replace(valid, body=hostile.nested(levels, objects=objects)),
                    f"{levels} levels",
                    demanded if reads_it else None,
                )
    hostility.report()


@one_in(7)
def test_wrong_types_and_missing_keys_in_bodies(hostility: Hostility, step: int) -> None:
    some = Thinned(step)
    for endpoint in WITH_BODY:
        line = VALID[endpoint.name]
        for way in hostile.keys_of(hostility.body(endpoint)):
            for value in some.of(hostile.VALUES):
                _, valid = hostility.valid(endpoint)
                body = json.dumps(hostile.replaced(hostility.body(endpoint), way, value)).encode()
                hostility.send(replace(valid, body=body), f"{way} is {str(value)[:20]!r}")
            for number in some.of(hostile.RAW_NUMBERS):
                _, valid = hostility.valid(endpoint)
                body = json.dumps(hostile.replaced(hostility.body(endpoint), way, "@number@")).encode()
                hostility.send(replace(valid, body=body.replace(b'"@number@"', number)), f"{way} is {number[:20]!r}")
            _, valid = hostility.valid(endpoint)
            demanded = refused("M_BAD_JSON", "M_MISSING_PARAM") if way[0] in line.required and len(way) == 1 else None
            body = json.dumps(hostile.without(hostility.body(endpoint), way)).encode()
            hostility.send(replace(valid, body=body), f"no {way}", demanded)
    hostility.report()


@one_in(5)
def test_malformed_and_overlong_ids_in_paths(hostility: Hostility, step: int) -> None:
    some = Thinned(step)
    for endpoint in ENDPOINTS:
        for name in parameters_of(endpoint):
            for value in some.of(hostile.PATH_VALUES):
                _, valid = hostility.valid(endpoint)
                hostility.send(replace(valid, path=hostility.path(endpoint, {name: value})), f"{name} is {value[:30]}")
            for value in some.of(hostile.BROKEN_ESCAPES):
                _, valid = hostility.valid(endpoint)
                path = hostility.path(endpoint, {name: value})
                hostility.send(replace(valid, path=path), f"{name} is {value}", refused("M_INVALID_PARAM", "M_UNKNOWN"))
    hostility.report()


@one_in(5)
def test_hostile_query_strings(hostility: Hostility, step: int) -> None:
    some = Thinned(step)
    for endpoint in ENDPOINTS:
        for name in VALID[endpoint.name].query:
            for value in some.of(hostile.QUERY_VALUES):
                _, valid = hostility.valid(endpoint)
                others = "&".join(part for part in valid.query.split("&") if not part.startswith(f"{name}="))
                query = f"{others}&{name}={value}&timeout=0" if name != "timeout" else f"{others}&timeout={value}"
                if name == "timeout" and value.isdigit() and len(value) < 30 and int(value) > 0:
                    query += "&since="  # an initial sync never waits
                hostility.send(replace(valid, query=query), f"{name} is {value[:30]}")
        for query in some.of(hostile.QUERY_STRINGS):
            _, valid = hostility.valid(endpoint)
            if "timeout" in VALID[endpoint.name].query:
                query += "&timeout=0"  # some endpoints wait long by default
            hostility.send(replace(valid, query=query), "query string")
    hostility.report()


@one_in(4)
def test_invalid_tokens_are_refused(hostility: Hostility, step: int) -> None:
    some = Thinned(step)
    gone = register(hostility.fleet, "gone")
    gone.ask("POST", "/logout")
    hostility.secrets.add(gone.token)
    for endpoint in ENDPOINTS:
        _, valid = hostility.valid(endpoint)
        if endpoint.auth is not Auth.ACCESS_TOKEN:
            hostility.send(replace(valid, token="x"), "an unknown token where none is needed")
            continue
        hostility.send(replace(valid, token=None), "no token", refused("M_MISSING_TOKEN"))
        for token in some.of((*hostile.TOKENS, gone.token)):
            hostility.send(replace(valid, token=token), f"token {token[:20]}", refused("M_UNKNOWN_TOKEN"))
        query = f"{valid.query}&access_token=skp_001_nothing"
        hostility.send(replace(valid, token=None, query=query), "in the query", refused("M_UNKNOWN_TOKEN"))
    hostility.report()


def test_authorization_header_without_token_is_refused(hostility: Hostility) -> None:
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "bearer\t",
        "Basic eDp5",
        "Bearerx",
        hostility.me.token,
        'X-Matrix origin="a"',
    ):
        answer = call_http(
            hostility.fleet.client_url, "GET", f"{CLIENT}/account/whoami", headers={"Authorization": header}
        )
        assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN"), (header, answer)
        assert faults_of(answer) == []


def test_expired_token_of_refreshable_session_gets_soft_logout(hostility: Hostility) -> None:
    """`soft_logout` tells a client with a refresh token that its device still exists."""
    url = hostility.fleet.client_url
    body = {"username": "expiring", "password": PASSWORD, "refresh_token": True, "auth": {"type": "m.login.dummy"}}
    made = call_http(url, "POST", f"{CLIENT}/register", body=body).json()
    hostility.secrets |= {made["access_token"], made["refresh_token"]}
    time.sleep(made["expires_in_ms"] / 1000 + 0.1)
    answer = call_http(url, "GET", f"{CLIENT}/sync", token=made["access_token"])
    assert (answer.status, answer.errcode, answer.json()["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True), answer
    fresh = call_http(url, "POST", f"{CLIENT}/refresh", body={"refresh_token": made["refresh_token"]}).json()
    hostility.secrets |= {fresh["access_token"], fresh["refresh_token"]}
    assert call_http(url, "GET", f"{CLIENT}/account/whoami", token=fresh["access_token"]).status == 200


def test_method_that_the_endpoint_lacks_is_refused(hostility: Hostility) -> None:
    served: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        for path in (endpoint.path, *endpoint.aliases):
            served.setdefault(path, set()).add(endpoint.method)
    for endpoint in ENDPOINTS:
        _, valid = hostility.valid(endpoint)
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "BREW"} - served[endpoint.path]:
            answer = hostility.send(replace(valid, method=method), f"method {method}", refused("M_UNRECOGNIZED"))
            if answer is not None and answer.status not in (404, 405):
                hostility.faults.append(f"{endpoint.name}, {method} -> {answer.status}: neither 404 nor 405")
        answer = hostility.send(replace(valid, method="OPTIONS", token=None, body=b""), "pre-flight")
        if answer is not None and answer.status != 200:
            hostility.faults.append(f"{endpoint.name}, OPTIONS -> {answer.status}: no pre-flight")
    hostility.report()


def test_unknown_path_returns_404(hostility: Hostility) -> None:
    url = hostility.fleet.client_url
    assert call_http(url, "POST", "/", body=b"{").errcode == "M_UNRECOGNIZED"  # GET has a page for people
    for path in (
        "/_matrix",
        "/_matrix/client/v3/",
        "/_matrix/client/v9/sync",
        "/_matrix/client/v3/nothing",
        "//",
        "/_matrix/client/v3/sync/",
        "/%5fmatrix/client/v3/sync",
        "/_matrix/client/v3//sync",
        "/" + "a/" * 2000,
        "/_matrix/media/v3/download/x/y/z/w",
        "/favicon.ico",
        "/_matrix/client/v3/sync;x",
        "/_matrix/%00",
    ):
        for method in ("GET", "POST"):
            answer = call_http(url, method, path, body=b"{" if method == "POST" else b"")
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED"), (method, path, answer)
            assert answer.header("access-control-allow-origin") == "*"


def test_body_over_the_limit_returns_413(hostility: Hostility) -> None:
    too_much = b'{"a":"' + b"x" * (MAX_BODY_BYTES - 7) + b'"}'
    just_right = too_much.replace(b"xx", b"x", 1)
    path = f"/user/{quote(hostility.me.user_id)}/account_data/org.example.large"
    assert hostility.me.call("PUT", path, just_right).status == 200
    for endpoint in ENDPOINTS:
        if is_federation(endpoint) or endpoint.method == "GET":
            continue
        _, valid = hostility.valid(endpoint)
        hostility.send(replace(valid, body=too_much), "a byte too many", refused("M_TOO_LARGE"))
        headers = {"Transfer-Encoding": "chunked"}
        if valid.token is not None:
            headers["Authorization"] = f"Bearer {valid.token}"
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        request = request_bytes(valid.method, valid.path, headers=headers, body=chunk * 17 + b"0\r\n\r\n")
        answer = exchange(hostility.fleet.client_url, request, method=valid.method)
        if (answer.status, answer.errcode) != (413, "M_TOO_LARGE"):
            hostility.faults.append(f"{endpoint.name}, chunked -> {answer.status}: {answer.body[:200]!r}")
    hostility.report()


def test_content_length_over_the_limit_is_refused_before_the_body(hostility: Hostility) -> None:
    for length in ("99999999999", "9007199254740993"):
        request = request_bytes("POST", f"{CLIENT}/login", headers={"Content-Length": length})
        answer = exchange(hostility.fleet.client_url, request, method="POST")
        assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE"), (length, answer)
        assert faults_of(answer) == []


def test_haproxy_refuses_invalid_http(hostility: Hostility) -> None:
    """Before version 3.3, haproxy answers with its own page: a known limit (deploy/haproxy/README.md)."""
    requests = [
        request_bytes("POST", f"{CLIENT}/login", headers={"Content-Length": length})
        for length in ("18446744073709551616", "9" * 5000, "-1", "x", "1, 2", "0x10")
    ]
    requests += [request_bytes("GET", target) for target in ("/a b", "/é", "/\x00", "no-slash", "/a\tb")]
    requests += [b"\x16\x03\x01\x00\xa5\x01\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n", b"GET /\r\n\r\n"]
    requests.append(request_bytes("GET", "/", headers={"X-Long": "x" * 100_000}))
    requests.append(
        request_bytes("POST", "/", headers={"Transfer-Encoding": "chunked, identity", "Content-Length": "3"})
    )
    for request in requests:
        answer = exchange(hostility.fleet.client_url, request)
        assert 400 <= answer.status < 500 and answer.status != 429, (request[:80], answer)
        assert len(answer.body) < 300, answer


def test_event_that_is_too_large_or_has_invalid_numbers_is_refused(hostility: Hostility) -> None:
    me, room = hostility.me, hostility.values["room"]

    def check(content: bytes | object, status: int, errcode: str | None, event_type: str = "org.hum") -> None:
        hostility.calls += 1
        for state in (False, True):
            path = f"/rooms/{quote(room)}/state/{quote(event_type)}/{hostility.calls}"
            answer = (
                me.call("PUT", path, content) if state else me.send(room, f"e{hostility.calls}", content, event_type)
            )
            found = answer.json().get("errcode")
            assert (answer.status, found) == (status, errcode), (str(content)[:100], state, answer)

    check({"body": "x" * 65_536}, 413, "M_TOO_LARGE")
    check({"body": "é" * 33_000}, 413, "M_TOO_LARGE")
    check({"body": "x" * 64_000}, 200, None)
    for number in (
        b"1.5",
        b"1e3",
        b"9007199254740992",
        b"-9007199254740992",
        b"18446744073709551616",
        b"1e400",
        b"-0.0",
    ):
        check(b'{"body": ' + number + b"}", 400, "M_BAD_JSON" if number != b"1e400" else "M_NOT_JSON")
        check(b'{"a": {"b": [1, ' + number + b"]}}", 400, "M_BAD_JSON" if number != b"1e400" else "M_NOT_JSON")
    for number in (b"9007199254740991", b"-9007199254740991", b"0", b"-0"):
        check(b'{"body": ' + number + b"}", 200, None)
    for event_type in ("t" * 256, "é" * 128):
        check({}, 413, "M_TOO_LARGE", event_type)
    check({}, 200, None, "t" * 255)


def test_nul_in_events_survives_a_round_trip(hostility: Hostility) -> None:
    me = hostility.me
    room = me.create_room(
        name="a\x00b",
        topic="\x00",
        initial_state=[{"type": "x\x00", "state_key": "k\x00", "content": {"\x00": "\x1a0"}}],
    )
    since = me.ask("GET", "/sync")["next_batch"]
    content = {"body": "a\x00b\x1a0\x1a", "k\x00": ["\x00", {"\x1a1": "\x00"}], "msgtype": "m.text"}
    sent = me.send(room, "t\x00", content, "org.ex\x00ample").json()["event_id"]
    again = me.send(room, "t\x00", content, "org.ex\x00ample").json()["event_id"]
    assert sent == again
    me.ask("PUT", f"/rooms/{quote(room)}/state/st%00ate/key%00%1A0", content)

    synced = me.ask("GET", f"/sync?since={since}")["rooms"]["join"][room]["timeline"]["events"]
    shown = me.ask("GET", f"/rooms/{quote(room)}/messages?dir=b")["chunk"]
    full = me.ask("GET", "/sync?full_state=true")["rooms"]["join"][room]
    for events in (synced, shown):
        by_type = {each["type"]: each for each in events}
        assert by_type["org.ex\x00ample"]["content"] == content
        assert by_type["st\x00ate"]["content"] == content
        assert by_type["st\x00ate"]["state_key"] == "key\x00\x1a0"
    state = me.ask("GET", f"/rooms/{quote(room)}/state")
    named = {(each["type"], each["state_key"]): each["content"] for each in state}
    assert named["m.room.name", ""] == {"name": "a\x00b"}
    assert named["x\x00", "k\x00"] == {"\x00": "\x1a0"}
    assert any(each["type"] == "x\x00" for each in full["state"]["events"] + full["timeline"]["events"])
    assert me.ask("GET", f"/rooms/{quote(room)}/state/x%00/k%00") == {"\x00": "\x1a0"}
    one = me.ask("GET", f"/rooms/{quote(room)}/event/{quote(sent)}")
    assert (one["type"], one["content"]) == ("org.ex\x00ample", content)


def test_client_cannot_set_internal_registration_keys(hostility: Hostility) -> None:
    """`sealed_password` is kept with a request during interactive authentication. A client must not provide it."""
    url = hostility.fleet.client_url
    body = {"username": "hashed", "sealed_password": "nonsense", "auth": {"type": "m.login.dummy"}}
    answer = call_http(url, "POST", f"{CLIENT}/register", body=body)
    assert (answer.status, answer.errcode) == (400, "M_MISSING_PARAM"), answer


@dataclass(frozen=True)
class Plan:
    """A random call with placeholders, so that hypothesis draws values that do not depend on the fleet.

    params: path parameters to replace
    query, body: None for the valid one
    cut: (position in thousandths of the body, bytes to insert, number of bytes to remove)
    token: "" for the valid one
    """

    endpoint: Endpoint
    params: dict[str, str]
    query: str | None
    body: Any
    cut: tuple[int, bytes, int] | None
    token: str | None

    def call(self, hostility: Hostility) -> Call:
        _, valid = hostility.valid(self.endpoint)
        body = valid.body if self.body is None else json.dumps(fill(self.body, hostility.values)).encode()
        if self.cut is not None:
            at = len(body) * self.cut[0] // 1000
            body = body[:at] + self.cut[1] + body[at + self.cut[2] :]
        return replace(
            valid,
            path=hostility.path(self.endpoint, self.params),
            query=valid.query if self.query is None else self.query,
            body=body,
            token=valid.token if self.token == "" else self.token,
        )


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_ENCODED = st.sampled_from(hostile.PATH_VALUES + hostile.BROKEN_ESCAPES) | st.text(min_size=1, max_size=20).map(
    lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="")
)


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    endpoint: Endpoint = draw(st.sampled_from(ENDPOINTS))
    line = VALID[endpoint.name]
    params = {name: draw(_ENCODED) for name in parameters_of(endpoint) if draw(st.integers(0, 2)) == 0}
    query: str | None = None
    body, cut = None, None
    if bool(line.query) and draw(st.booleans()):
        names = st.sampled_from([*line.query, "access_token", "user_id"])
        values = st.sampled_from(hostile.QUERY_VALUES) | _ENCODED
        pairs = [(draw(names), draw(values)) for _ in range(draw(st.integers(0, 4)))]
        # A long poll would delay the test by a minute.
        query = "&".join(f"{name}={value}" for name, value in pairs if name != "timeout") + "&timeout=0"
    if line.body is not None:
        body = dict(line.body)
        for _ in range(draw(st.integers(0, 3))):
            ways = list(hostile.keys_of(body))
            if not ways:
                break
            way = draw(st.sampled_from(ways))
            value = draw(_JSON | st.sampled_from(hostile.VALUES))
            body = hostile.replaced(body, way, value) if draw(st.booleans()) else hostile.without(body, way)
        if draw(st.integers(0, 4)) == 0:
            cut = (draw(st.integers(0, 1000)), draw(st.binary(max_size=6)), draw(st.integers(0, 3)))
    token = "" if draw(st.integers(0, 9)) else draw(st.none() | st.sampled_from(hostile.TOKENS))
    return Plan(endpoint, params, query, body, cut, token)


def _random_requests(hostility: Hostility, examples: int, *, derandomize: bool) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(_plans())
    def send(plan: Plan) -> None:
        hostility.send(plan.call(hostility), "at random")
        hostility.report()

    send()


def test_randomly_damaged_requests(hostility: Hostility) -> None:
    # Each run sends the same requests, so that the test is not flaky. `make soak` sends new ones.
    _random_requests(hostility, 200, derandomize=True)


@pytest.mark.soak
def test_many_randomly_damaged_requests(hostility: Hostility) -> None:
    _random_requests(hostility, 20_000, derandomize=False)


def test_every_process_lives_and_logs_hold_no_secrets(hostility: Hostility) -> None:
    """Run last: the logs cover all tests above."""
    hostility.renew()
    fleet = hostility.fleet
    files = [fleet.directory / "up.log", *(fleet.directory / "logs").glob("*")]
    secrets = {secret for secret in hostility.secrets if len(secret) > 12}
    assert len(files) > 6
    for file in files:
        text = file.read_text(errors="replace")
        for bad in ("A request failed by a bug", "Traceback (most recent", '"exception"'):
            at = text.find(bad)
            assert at < 0, f"{file.name}: {text[max(0, at - 300) : at + 1500]}"
        told = [secret for secret in secrets if secret in text]
        assert not told, (file.name, told)
    assert {name for name, each in fleet.processes().items() if each["pid"] <= 0} == set()
