"""Rate limits as in production, across several processes: the form of a refusal, precision, and cost."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from shared.core.slots import slot_of
from tests.fix_fleet import RunningFleet
from tests.fix_special_fleets import LIMITS
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import Answer, call


def _check_refusal(answer: Answer) -> float:
    """Check a 429 against the spec ("Rate limiting") and return its delay in seconds."""
    body = answer.json()
    assert (answer.status, body["errcode"]) == (429, "M_LIMIT_EXCEEDED"), answer
    wait_ms = body["retry_after_ms"]
    assert type(wait_ms) is int and wait_ms > 0, body
    assert answer.header("retry-after") == str(math.ceil(wait_ms / 1000)), answer
    assert answer.header("access-control-allow-origin") == "*"
    assert set(body) == {"errcode", "error", "retry_after_ms"}
    return wait_ms / 1000


def _owners(fleet: RunningFleet) -> dict[int, str]:
    """Return slot -> name of the persister that owns it."""
    owners: dict[int, str] = {}
    for each in fleet.status()["slots"]["rooms"]:
        first, last = (each["first"], each["last"]) if "first" in each else each["slots"]
        owners.update(dict.fromkeys(range(first, last + 1), each["owner"]))
    return owners


def _room_on_each_persister(fleet: RunningFleet, person: Person) -> list[str]:
    owners = _owners(fleet)
    found: dict[Any, str] = {}
    assert len(set(owners.values())) == 2
    for _ in range(40):
        room = person.create_room()  # room creation has no limit in this fleet
        found.setdefault(owners[slot_of(room)], room)
        if len(found) == 2:
            return list(found.values())
    raise AssertionError("one persister owns all of forty rooms")


def test_user_limit_holds_across_two_persisters(limited_fleet: RunningFleet) -> None:
    person = register(limited_fleet, "talker")
    rooms = _room_on_each_persister(limited_fleet, person)
    rate = LIMITS["message"]
    began = time.monotonic()
    end = began + 3.0

    def talk(room: str) -> list[Answer]:
        answers: list[Answer] = []
        while time.monotonic() < end:
            answers.append(person.send(room, f"{room[:5]}{len(answers)}", {"msgtype": "m.text", "body": "hum"}))
            if answers[-1].status != 200:
                time.sleep(0.01)
        return answers

    with ThreadPoolExecutor(2) as threads:
        answers = [answer for each in threads.map(talk, rooms) for answer in each]
    allowed = sum(answer.status == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status != 200]
    ideal = rate["burst"] + rate["per_second"] * (time.monotonic() - began)
    assert ideal / 2 <= allowed <= ideal * 2, (allowed, ideal, len(refused))
    assert refused
    for answer in refused:
        _check_refusal(answer)


def test_request_after_retry_after_succeeds(limited_fleet: RunningFleet) -> None:
    person, hurry = register(limited_fleet, "patient"), LIMITS["account"]["burst"] * 2 + 2
    path = f"/user/{quote(person.user_id, safe='')}/account_data/org.example.bees"
    answers = [person.call("PUT", path, {"n": number}) for number in range(hurry)]
    assert answers[0].status == 200
    wait_s = _check_refusal(answers[-1])
    assert wait_s <= 2 / LIMITS["account"]["per_second"]
    assert person.call("GET", path).status == 200  # another class, which is not used up
    time.sleep(wait_s + 0.05)
    assert person.call("PUT", path, {"n": "again"}).status == 200


def test_limit_is_per_user_and_no_header_lifts_it(limited_fleet: RunningFleet) -> None:
    loud, quiet = register(limited_fleet, "loud"), register(limited_fleet, "quiet")
    room = loud.create_room()
    quiet.ask("POST", f"/join/{quote(room, safe='')}", {})
    for number in range(3 * LIMITS["message"]["burst"]):
        answer = loud.send(room, f"l{number}", {"msgtype": "m.text", "body": "!"})
        if answer.status == 429:
            break
    _check_refusal(answer)
    path = f"{CLIENT}/rooms/{quote(room, safe='')}/send/m.room.message/"
    headers = {"x-skep-forwarded": "1", "X-Skep-Slot": "1", "x-forwarded-for": "192.0.2.9"}
    statuses = [
        call(
            loud.url,
            "PUT",
            f"{path}h{number}",
            token=loud.token,
            body={"msgtype": "m.text", "body": "!"},
            headers=headers,
        ).status
        for number in range(10)
    ]
    assert statuses.count(429) >= 5, statuses
    assert quiet.send(room, "q", {"msgtype": "m.text", "body": "hum"}).status == 200


def test_logins_are_limited_per_account(limited_fleet: RunningFleet) -> None:
    person = register(limited_fleet, "guarded")
    body: dict[str, Any] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "guarded"},
        "password": "wrong",
    }
    answers = [call(person.url, "POST", f"{CLIENT}/login", body=body) for _ in range(LIMITS["login"]["burst"] + 3)]
    assert answers[0].status == 403
    _check_refusal(answers[-1])
    # The right password is refused too. Otherwise the limit would reveal which guess was right.
    right = call(person.url, "POST", f"{CLIENT}/login", body={**body, "password": person.password})
    wait_s = _check_refusal(right)
    time.sleep(wait_s + 0.1)
    assert call(person.url, "POST", f"{CLIENT}/login", body={**body, "password": person.password}).status == 200


def _internal_calls(fleet: RunningFleet) -> float:
    """Return the number of internal calls for a share of a limit."""
    asked = 0.0
    for each in fleet.processes().values():
        if each["type"] == "client_api":
            text = call(f"http://{each['address']}", "GET", "/metrics").body.decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.labels.get("endpoint") == "take_rate_limit" and sample.name.endswith("requests_total"):
                        asked += sample.value
    return asked


def test_unlimited_classes_make_no_internal_calls(limited_fleet: RunningFleet) -> None:
    person = register(limited_fleet, "reader")
    rooms = _room_on_each_persister(limited_fleet, person)
    before = _internal_calls(limited_fleet)
    for number in range(30):
        room = quote(rooms[number % 2], safe="")
        for path in (f"/rooms/{room}/state", "/account/whoami", "/joined_rooms"):
            assert person.call("GET", path).status == 200
        assert person.call("POST", f"/rooms/{room}/join", {}).status == 200
    assert _internal_calls(limited_fleet) == before
    for room in rooms:
        assert person.send(room, "one", {"msgtype": "m.text", "body": "hum"}).status == 200
    assert _internal_calls(limited_fleet) > before


def test_registrations_are_limited_by_real_client_address(limited_fleet: RunningFleet) -> None:
    """Run last: it uses up the limit of the address that all these tests share."""
    answers = [
        call(
            limited_fleet.client_url,
            "GET",
            f"{CLIENT}/register/available?username=u{number}",
            headers={"x-forwarded-for": f"192.0.2.{number}", "forwarded": f"for=192.0.2.{number}"},
        )
        for number in range(3 * LIMITS["registration"]["burst"])
    ]
    assert {answer.status for answer in answers} <= {200, 429}
    _check_refusal(answers[-1])
    body = {"username": "late", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    _check_refusal(call(limited_fleet.client_url, "POST", f"{CLIENT}/register", body=body))
