"""Scenario `fanout`: members of one room who all long-poll /sync, and one message after another.

    python -m load.fanout                      200 members
    python -m load.fanout --members 50,200 --compare COMMIT

A delivery is one message in one member's answer. The next message is sent when all members have the previous one. The
cost of sending is part of the figures.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from urllib.parse import quote

import orjson

from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.scenario import (
    Bench,
    Tally,
    at_once,
    counts,
    join,
    main,
    message,
    new_room,
    new_users,
    results,
    send_path,
)

SYNC_TIMEOUT_MS = 30_000
_DELIVERY_LIMIT_S = 30.0
#: The filter of most clients.
_FILTER = quote('{"room":{"state":{"lazy_load_members":true}}}')


class Audience:
    """Members who long-poll, and their deliveries. A subclass can poll in another way."""

    token_field = "next_batch"  # noqa: S105 - a name, not a secret

    def __init__(self, members: list[User], errors: Counter[str]) -> None:
        self.latencies_s: list[float] = []
        self._members = members
        self.errors = errors
        self._missing = 0
        self._all = asyncio.Event()
        self._event_id = b""
        self._sent_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Let all members sync once, and long-poll."""
        tokens = await at_once(self.first_token(user) for user in self._members)
        self._tasks = [asyncio.create_task(self._listen(u, t)) for u, t in zip(self._members, tokens, strict=True)]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for user in self._members:
            user.connection.close()

    async def deliver(self, sender: User, path: str, content: bytes) -> None:
        """Send one message, and wait until all members have it."""
        self._missing = len(self._members)
        self._all.clear()
        self._sent_s = time.perf_counter()
        status, answer = await sender.connection.raw_request("PUT", path, content)
        if status != 200:
            self.errors[f"send: status {status}"] += 1
            return
        self._event_id = orjson.loads(answer)["event_id"].encode()
        try:
            async with asyncio.timeout(_DELIVERY_LIMIT_S):
                await self._all.wait()
        except TimeoutError:
            self.errors["not delivered"] += self._missing

    async def first_token(self, user: User) -> str:
        return str((await user.request("GET", f"/_matrix/client/v3/sync?filter={_FILTER}"))["next_batch"])

    async def poll(self, user: User, token: str) -> tuple[int, bytes]:
        """Return the status and body of the next answer."""
        path = f"/_matrix/client/v3/sync?filter={_FILTER}&timeout={SYNC_TIMEOUT_MS}&since={quote(token)}"
        return await user.connection.raw_request("GET", path, b"")

    async def _listen(self, user: User, token: str) -> None:
        start = f'{{"{self.token_field}":"'.encode()
        while True:
            status, answer = await self.poll(user, token)
            if status != 200:
                self.errors[f"sync: status {status}"] += 1
                await asyncio.sleep(0.2)
                continue
            # The generator must stay cheap: an answer of the usual form is not decoded.
            if answer.startswith(start):
                token = answer[len(start) : answer.index(b'"', len(start))].decode()
            else:
                token = orjson.loads(answer)[self.token_field]
            count = answer.count(b'"m.room.message"')
            if count:
                self.latencies_s.append(time.perf_counter() - self._sent_s)
                self._missing -= count
                if self._missing <= 0:
                    self._all.set()


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    """Measure one case for each number of members."""
    bench = Bench(target, "fanout", "delivery")
    cases = []
    for count in arguments.members:
        [sender, *members] = await new_users(target, "fan", count + 1)
        room_id = await new_room(sender)
        await at_once((join(user, room_id) for user in members), 4)
        audience = Audience(members, Counter())
        await audience.start()
        await asyncio.sleep(1.0)
        for number in range(arguments.warm_up):
            await audience.deliver(sender, send_path(room_id, f"warm{number}"), message())
        async with bench.case(f"{count} members", {"members": count, "messages": arguments.messages}) as tally:
            audience.latencies_s = tally.latencies_s
            for number in range(arguments.messages):
                await audience.deliver(sender, send_path(room_id, f"m{number}"), message())
        tally.errors.update(audience.errors)
        audience.stop()
        sender.connection.close()
        cases.append(tally)
        print(f"{count} members: {_deliveries(tally, count * arguments.messages)}", file=sys.stderr, flush=True)
    return results(*cases)


def _deliveries(tally: Tally, wanted: int) -> str:
    return f"{len(tally.latencies_s)} of {wanted} deliveries"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=counts, default=[200], help="numbers of members, one case each (200)")
    parser.add_argument("--messages", type=int, default=60, help="measured messages (60)")
    parser.add_argument("--warm-up", type=int, default=10, help="messages before the measurement (10)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
