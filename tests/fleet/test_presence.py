"""Presence on a fleet with two client_apis and two synchrotrons, while a client_api is killed."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fix_fleet import RunningFleet, run_fleet
from tests.fleet.people import Person, register
from tests.spec_answers import check_answer

_FILTER = (
    '{"room":{"rooms":[]},"account_data":{"types":[]}}'.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
)
_PEOPLE = 8


@pytest.fixture(scope="module")
def many() -> Iterator[RunningFleet]:
    yield from run_fleet({"fleet": {"client_api": 2, "synchrotron": 2}})


class _Reader(threading.Thread):
    """A client that syncs all the time and records the presence events. presence: its `set_presence`."""

    def __init__(self, person: Person) -> None:
        super().__init__(daemon=True)
        self.person = person
        self.presence = ""
        self.told: list[tuple[str, str, Any]] = []
        self.ending = False

    def run(self) -> None:
        since = ""
        while not self.ending:
            extra = f"&set_presence={self.presence}" if self.presence else ""
            answer = self.person.call("GET", f"/sync?timeout=2000&filter={_FILTER}{since}{extra}")
            if answer.status != 200:
                time.sleep(0.2)  # an owner has been killed
                continue
            body = answer.json()
            check_answer("sync.yaml", "/sync", "get", body)
            since = f"&since={body['next_batch']}"
            for event in body["presence"]["events"]:
                content = event["content"]
                self.told.append((event["sender"], content["presence"], content.get("status_msg")))

    def last(self, user_id: str) -> tuple[str, Any] | None:
        return next(((state, status) for who, state, status in reversed(self.told) if who == user_id), None)

    def wait_for(self, user_id: str, wanted: tuple[str, Any], limit_s: float = 20.0) -> None:
        end = time.monotonic() + limit_s
        while self.last(user_id) != wanted:
            assert time.monotonic() < end, (user_id, wanted, self.last(user_id))
            time.sleep(0.05)


def _status_path(person: Person) -> str:
    return f"/presence/{person.user_id.replace('@', '%40').replace(':', '%3A')}/status"


def test_no_user_goes_offline_when_an_owner_is_killed(many: RunningFleet) -> None:
    people = [register(many, f"presence{number}") for number in range(_PEOPLE)]
    room_id = people[0].create_room()
    for each in people[1:]:
        each.ask("POST", f"/rooms/{room_id}/join", {})
    readers = [_Reader(person) for person in people]
    for reader in readers:
        reader.start()
    try:
        for person in people:
            person.ask("PUT", _status_path(person), {"presence": "online", "status_msg": person.user_id})
        for reader in readers:
            for person in people:
                reader.wait_for(person.user_id, ("online", person.user_id))
        before = [len(reader.told) for reader in readers]
        many.kill("client_api-1")
        # The new owner of every user serves the status that the user set.
        for person in people:
            end = time.monotonic() + 20
            while (answer := people[0].call("GET", _status_path(person))).status != 200:
                assert time.monotonic() < end, answer
                time.sleep(0.1)
            # The new owner starts with the saved presence until the synchrotrons report the user's devices.
            while (told := people[0].ask("GET", _status_path(person)))["presence"] != "online":
                assert time.monotonic() < end, told
                time.sleep(0.1)
            check_answer("presence.yaml", "/presence/{userId}/status", "get", told)
            assert told["status_msg"] == person.user_id
        people[0].ask("PUT", _status_path(people[0]), {"presence": "offline"})  # this user appears offline from now on
        readers[1].wait_for(people[0].user_id, ("offline", people[0].user_id))
        for reader, count in zip(readers, before, strict=True):
            flickered = [one for one in reader.told[count:] if one[1] == "offline" and one[0] != people[0].user_id]
            assert flickered == []
    finally:
        for reader in readers:
            reader.ending = True
        for reader in readers:
            reader.join(10)
