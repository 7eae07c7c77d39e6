"""Users who send messages all the time while a test changes the fleet."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register

_PACE_S = 0.03


@dataclass(slots=True)
class Sender:
    """A user who sends messages into a room.

    failed: answers other than 200 to the first attempt at a message
    failed_again: answers other than 200 to later attempts, a second apart
    longest_s: the longest time that an answer took
    """

    person: Person
    room_id: str
    sent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    failed_again: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def make_room(self) -> None:
        """Create a room, a request that haproxy never retries. A failure is recorded in `failed`."""
        began = time.monotonic()
        try:
            answer = self.person.call("POST", "/createRoom", {})
            told = "" if answer.status == 200 else f"{answer.status} {answer.body[:200]!r}"
        except OSError as error:
            told = str(error)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if told:
            self.failed.append(f"{time.strftime('%H:%M:%S')} createRoom: {told}")

    def send(self) -> None:
        """Send the next message, and repeat it with the same transaction id until it is stored."""
        attempts = 0
        while True:
            began = time.monotonic()
            answer = self._attempt()
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if answer.startswith("$"):
                self.sent.append(answer)
                return
            attempts += 1
            told = f"{time.strftime('%H:%M:%S')} message {len(self.sent)}: {answer}"
            (self.failed if attempts == 1 else self.failed_again).append(told)
            time.sleep(1.0)

    def stored(self) -> list[str]:
        """Return the ids of the room's messages, oldest first."""
        found: list[str] = []
        start = ""
        while True:
            page = self.person.ask("GET", f"/rooms/{self.room_id}/messages?dir=f&limit=500{start}")
            found += [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
            if "end" not in page or not page["chunk"]:
                return found
            start = f"&from={page['end']}"

    def _attempt(self) -> str:
        try:
            answer = self.person.send(self.room_id, f"n{len(self.sent)}", {"msgtype": "m.text", "body": "x"})
        except OSError as error:
            return str(error)
        return answer.json()["event_id"] if answer.status == 200 else f"{answer.status} {answer.body[:200]!r}"


@contextmanager
def steady_senders(fleet: RunningFleet, count: int = 1, *, make_rooms: bool = False) -> Iterator[list[Sender]]:
    """Run senders during the block, each with its own room.

    make_rooms: create a room after every tenth message
    """
    senders = []
    for number in range(count):
        person = register(fleet, f"sender{number}-{time.monotonic_ns()}")
        senders.append(Sender(person, person.create_room()))
    stop = threading.Event()

    def work(sender: Sender) -> None:
        while not stop.wait(_PACE_S):
            sender.send()
            if make_rooms and len(sender.sent) % 10 == 0:
                sender.make_room()

    threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        yield senders
    finally:
        stop.set()
        for thread in threads:
            thread.join()
