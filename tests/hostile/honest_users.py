"""Ten honest users, who talk and sync all the time, and measure how long that takes."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from load.harness.clients import Connection
from tests.hostile.enemy import CLIENT

#: Seconds between two messages of one user, below the rate limit for messages.
_PACE_S = 0.8
_FILTER = quote('{"presence":{"not_types":["*"]},"room":{"timeline":{"limit":50}}}')


@dataclass(slots=True)
class Experience:
    """The experience of the honest users.

    sends: for each message, the time at which it was sent and the seconds until its answer.
    deliveries: for each message in another user's sync, the time at which it was sent and the seconds since then.
    failures: answers that an honest user should not get, with the time.
    """

    sends: list[tuple[float, float]] = field(default_factory=list)
    deliveries: list[tuple[float, float]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)


def percentile(values: Sequence[tuple[float, float]], share: float, since: float, until: float) -> float:
    """Return a percentile of the seconds of the requests that began in this time; 0.0 if there is none."""
    found = sorted(seconds for at, seconds in values if since <= at < until)
    return found[min(len(found) - 1, int(len(found) * share))] if found else 0.0


@dataclass(slots=True, kw_only=True)
class HonestUser:
    """A user with a connection to send and one to sync."""

    user_id: str
    sending: Connection
    syncing: Connection
    rooms: list[str]
    experience: Experience
    _sent: int = 0

    async def talk(self) -> None:
        """Send a message into one of the rooms again and again."""
        while True:
            await asyncio.sleep(_PACE_S * random.uniform(0.7, 1.3))
            room, self._sent = random.choice(self.rooms), self._sent + 1
            began = time.monotonic()
            content = {"msgtype": "m.text", "body": "honest words", "sent": str(began)}
            path = f"{CLIENT}/rooms/{quote(room, safe='')}/send/m.room.message/{self.user_id}-{self._sent}"
            await self._call(self.sending, "PUT", path, content)
            self.experience.sends.append((began, time.monotonic() - began))

    async def listen(self) -> None:
        """Long-poll /sync, and note how old each message of others is."""
        since = ""
        while True:
            timeout = 10_000 if since else 0
            path = f"{CLIENT}/sync?timeout={timeout}&filter={_FILTER}" + (f"&since={since}" if since else "")
            answer = await self._call(self.syncing, "GET", path)
            if answer is None:
                await asyncio.sleep(0.5)
                continue
            now = time.monotonic()
            for room in answer.get("rooms", {}).get("join", {}).values():
                for event in room["timeline"]["events"] if since else ():
                    sent = event["content"].get("sent")
                    if event["sender"] != self.user_id and isinstance(sent, str):
                        self.experience.deliveries.append((float(sent), now - float(sent)))
            since = quote(answer["next_batch"])

    async def _call(self, connection: Connection, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        try:
            status, answer = await connection.raw_request(method, path, b"" if body is None else orjson.dumps(body))
        except OSError as error:
            status, answer = 0, str(error).encode()
        if status == 200:
            return orjson.loads(answer)
        told = f"{method} {path.partition('?')[0]} of {self.user_id}: {status} {answer[:200].decode(errors='replace')}"
        self.experience.failures.append((began, told))
        return None
