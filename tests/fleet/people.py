"""Users and rooms for tests that speak HTTP themselves."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.fix_fleet import RunningFleet
from tests.fleet.raw_http import Answer, call
from tests.rigs.waiting import wait_until

CLIENT = "/_matrix/client/v3"


@dataclass(slots=True)
class Person:
    """A registered user with one device. url: the fleet's client listener."""

    url: str
    user_id: str
    password: str
    device_id: str
    token: str

    def call(self, method: str, path: str, body: bytes | object = b"") -> Answer:
        """Call the client API. path: without "/_matrix/client/v3"."""
        return call(self.url, method, CLIENT + path, token=self.token, body=body)

    def ask(self, method: str, path: str, body: bytes | object = b"") -> Any:
        """Call the client API, assert status 200 and return the JSON."""
        answer = self.call(method, path, body)
        assert answer.status == 200, (method, path, answer)
        return answer.json()

    def ask_again(self, method: str, path: str) -> Any:
        """Do the same, and retry an answer of 503 as clients do while a process is replaced."""

        def answered() -> Answer | None:
            answer = self.call(method, path)
            return None if answer.status == 503 else answer

        answer: Answer = wait_until(answered)
        assert answer.status == 200, (method, path, answer)
        return answer.json()

    def create_room(self, **options: Any) -> str:
        room_id: str = self.ask("POST", "/createRoom", {"preset": "public_chat", **options})["room_id"]
        return room_id

    def send(self, room_id: str, transaction: str, content: object, event_type: str = "m.room.message") -> Answer:
        path = f"/rooms/{quote(room_id, safe='')}/send/{quote(event_type, safe='')}/{quote(transaction, safe='')}"
        return self.call("PUT", path, content)


def register(fleet: RunningFleet, name: str, password: str = "correct horse battery") -> Person:
    """Register a user of a fleet with open registration."""
    body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}}
    answer = call(fleet.client_url, "POST", f"{CLIENT}/register", body=body)
    assert answer.status == 200, answer
    made = answer.json()
    return Person(fleet.client_url, made["user_id"], password, made["device_id"], made["access_token"])
