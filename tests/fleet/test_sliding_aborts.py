"""Clients of sliding sync that close a long poll and repeat it, as apps do when a room is opened."""

import json
import random
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import call, request_bytes
from tests.workers.synchrotron.sliding_client import MERGED

_ROUNDS = 60
_LISTS = {"l": {"timeline_limit": 3, "required_state": {"include": [{}]}, "range": [0, 1]}}


def test_position_survives_closed_and_overlapping_requests(fleet: RunningFleet) -> None:
    dice = random.Random(1)
    alice = register(fleet, "aborting")
    rooms = [alice.create_room(name=f"{number}") for number in range(5)]
    pos = _sync(alice, None)["pos"]
    for number in range(_ROUNDS):
        closed = _open(alice, pos)  # still waits when the message comes
        time.sleep(dice.choice((0.0, 0.005, 0.02)))
        if dice.random() < 0.5:
            closed.close()
        assert alice.send(rooms[number % 5], f"{number}", {"msgtype": "m.text", "body": "x"}).status == 200
        answer = _sync(alice, pos)
        closed.close()
        assert _sync(alice, answer["pos"])["pos"]  # good, whichever answer was stored last
        pos = answer["pos"]


def _body(pos: str | None, timeout_ms: int) -> dict[str, Any]:
    return {"lists": _LISTS, "timeout": timeout_ms, **({} if pos is None else {"pos": pos})}


def _sync(person: Person, pos: str | None) -> Any:
    answer = call(person.url, "POST", MERGED, token=person.token, body=_body(pos, 0))
    assert answer.status == 200, answer
    return answer.json()


def _open(person: Person, pos: str) -> socket.socket:
    """Send a request and return its connection without reading the answer."""
    parts = urlsplit(person.url)
    connection = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=20)
    headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
    connection.sendall(request_bytes("POST", MERGED, headers=headers, body=json.dumps(_body(pos, 20_000)).encode()))
    return connection
