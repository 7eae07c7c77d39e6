"""Hostile input at every endpoint. The answer is a Matrix error with a code, never status 500."""

import itertools
import re

from shared.http.endpoint import Auth, paths_of
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from workers.client_api.endpoints import ENDPOINTS

_NAMES = (
    "x",
    "%00",
    "%C3%A4%F0%9F%90%9D",
    "%2F%2F",
    "a" * 400,
    "!a:example.org",
    "$e",
    "#a:example.org",
    "%1a",
)
_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"{}",
    b"[" * 5000,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"\xff\xfe",
    b'{"username":{},"password":[],"type":[],"identifier":7,"refresh_token":0,"new_password":false,"auth":"x"}',
    b'{"auth":{"type":null,"session":"\\u0000"},"devices":[1],"display_name":[],"typing":1,"room_id":"\\u0000"}',
    b'{"m.read":"\\u0000","m.fully_read":"x","thread_id":"\\u0000","order":1e400,"timeout":99999999999999999999}',
    b'{"nonce":"\\u0000","username":"\\u0000","password":"\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000","mac":"x"}',
    b'{"type":"m.login.password","user":"\\u0000","password":"\\u0000","device_id":"\\u0000"}',
    b'{"room":{"timeline":{"limit":-1}},"refresh_token":"\\u0000","token":"\\u0000"}',
)
_PARAMETER = re.compile(r"\{[A-Za-z]+\??\}")


async def test_hostile_input_gets_a_matrix_error(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        requests = 0
        for endpoint in ENDPOINTS:
            if endpoint.auth is Auth.INTERNAL or endpoint.name in ("logout", "logout_all"):
                continue
            template = paths_of(endpoint)[0].replace("{userId}", alice.quoted)
            names = _NAMES if _PARAMETER.search(template) else ("",)
            bodies = _BODIES if endpoint.method in ("PUT", "POST", "DELETE") else (b"",)
            for name, body in itertools.product(names, bodies):
                path = _PARAMETER.sub(lambda _, name=name: name, template)  # type: ignore[misc]
                answer = await alice.call(endpoint.method, path, raw=body, query="token=%00&username=%00")
                assert answer.status < 500, (path, body, answer.body)
                if answer.status >= 400:
                    assert answer.errcode or answer.status == 401, (path, body)
                requests += 1
        assert requests > 500
