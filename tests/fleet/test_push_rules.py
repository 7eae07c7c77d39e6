"""Push rules on a fleet: every endpoint, both devices of a user, and kills of the workers that write them."""

import threading
import time
from typing import Any
from urllib.parse import quote

from tests.fix_fleet import RunningFleet
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import call
from tests.rigs.waiting import wait_until

_GLOBAL = "/pushrules/global"
_RULE = f"{_GLOBAL}/content/honey"
_NO_FILTER = quote('{"room":{"rooms":[]}}')
_LIMIT_S = 30.0


def _second_device(fleet: RunningFleet, user: Person) -> Person:
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user.user_id},
        "password": user.password,
    }
    made = call(fleet.client_url, "POST", f"{CLIENT}/login", body=login).json()
    return Person(user.url, user.user_id, user.password, made["device_id"], made["access_token"])


def _sync(device: Person, since: str = "", timeout_ms: int = 0) -> tuple[str, list[Any]]:
    """Return the next token and the contents of all m.push_rules events."""
    query = f"?filter={_NO_FILTER}&timeout={timeout_ms}" + (f"&since={since}" if since else "")
    answer = device.ask("GET", f"/sync{query}")
    told = [event["content"] for event in answer["account_data"]["events"] if event["type"] == "m.push_rules"]
    return answer["next_batch"], told


def test_every_push_rule_endpoint(restless_fleet: RunningFleet) -> None:
    alice = register(restless_fleet, "alice-p")
    phone = _second_device(restless_fleet, alice)
    tokens = {device.device_id: _sync(device)[0] for device in (alice, phone)}
    steps = [
        ("PUT", _RULE, {"actions": ["notify"], "pattern": "honey"}, 200),
        ("PUT", f"{_GLOBAL}/content/wax?before=honey", {"actions": [], "pattern": "wax"}, 200),
        ("PUT", f"{_GLOBAL}/content/wax?after=nothing", {"actions": [], "pattern": "wax"}, 400),
        ("PUT", f"{_GLOBAL}/content/.wax", {"actions": [], "pattern": "wax"}, 400),
        ("PUT", f"{_GLOBAL}/content/a%2Fb", {"actions": [], "pattern": "wax"}, 400),
        ("PUT", f"{_RULE}/enabled", {"enabled": False}, 200),
        ("PUT", f"{_RULE}/actions", {"actions": ["notify", {"set_tweak": "highlight"}]}, 200),
        ("PUT", f"{_GLOBAL}/underride/.m.rule.message/actions", {"actions": []}, 200),
        ("PUT", f"{_GLOBAL}/underride/.m.rule.nothing/enabled", {"enabled": True}, 404),
        ("PUT", f"{_GLOBAL}/room/{quote('!room:x')}", {"actions": []}, 200),
        ("DELETE", f"{_GLOBAL}/room/{quote('!room:x')}", None, 200),
        ("DELETE", f"{_GLOBAL}/room/{quote('!room:x')}", None, 404),
        ("GET", f"{_RULE}/enabled", None, 200),
        ("GET", f"{_RULE}/actions", None, 200),
        ("GET", f"{_GLOBAL}/content/none", None, 404),
        ("PUT", f"/user/{quote(alice.user_id)}/account_data/m.push_rules", {"global": {}}, 405),
    ]
    for method, path, body, status in steps:
        answer = alice.call(method, path, b"" if body is None else body)
        assert answer.status == status, (method, path, answer)
    whole = phone.ask("GET", "/pushrules/")
    assert [rule["rule_id"] for rule in whole["global"]["content"]] == ["wax", "honey"]
    assert phone.ask("GET", _RULE) == whole["global"]["content"][1]
    assert (whole["global"]["content"][1]["enabled"], whole["global"]["room"]) == (False, [])
    for path in ("/pushrules/global/", "/pushrules/global"):
        assert alice.ask("GET", path) == whole["global"]
    for device in (alice, phone):
        _until_told(device, tokens[device.device_id], whole)
        assert _sync(device)[1] == [whole]


def _until_told(device: Person, token: str, wanted: Any) -> str:
    """Long-poll until the device gets these rules; return the next token."""
    end = time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        token, told = _sync(device, token, 10_000)
        if told and told[-1] == wanted:
            return token
    raise AssertionError("the rules did not come")


def test_acknowledged_rules_survive_kills_and_reach_all_devices(restless_fleet: RunningFleet) -> None:
    """A device adds rules while each client_api is killed in turn."""
    bob = register(restless_fleet, "bob-p")
    phone = _second_device(restless_fleet, bob)
    token, _ = _sync(phone)
    made: list[str] = []
    over = threading.Event()

    def make() -> None:
        while not over.is_set():
            rule_id = f"rule{len(made)}"
            if bob.call("PUT", f"{_GLOBAL}/content/{rule_id}", {"actions": [], "pattern": rule_id}).status == 200:
                made.append(rule_id)

    maker = threading.Thread(target=make)
    maker.start()
    try:
        for name in ("client_api-1", "client_api-2"):
            count = len(made)
            restless_fleet.kill(name)
            wait_until(lambda count=count: len(made) >= count + 5)  # type: ignore[misc]
    finally:
        over.set()
        maker.join()
    whole = bob.ask("GET", "/pushrules/")
    found = [rule["rule_id"] for rule in whole["global"]["content"]]
    # A rule whose request got no answer may exist. The device repeats the request until it is answered.
    assert [rule_id for rule_id in reversed(found) if rule_id in set(made)] == made
    assert len(found) <= len(made) + 1
    _until_told(phone, token, whole)
    assert _sync(bob)[1] == [whole]
