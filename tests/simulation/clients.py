"""Clients of a simulated fleet: senders that retry until they get an answer, and clients that sync at any reader."""

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from shared.core.errors import RemoteServerError, Unavailable
from shared.core.slots import slot_of
from shared.core.sync_tokens.stream_token import StreamToken, format_token
from shared.http.client import HttpResponse
from tests.simulation.keys import KEYS
from tests.simulation.processes import request_for
from tests.simulation.roles import ACCOUNT_DATA, EVENTS, LETTERS

if TYPE_CHECKING:
    from tests.simulation.world import World

_ANSWER_TIMEOUT_S = 8.0


class Sender:
    """Send to rooms and users, one request at a time, routed by haproxy's map."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._number = number
        self.unanswered = ""

    async def run(self) -> None:
        world, random = self._world, self._world.random
        while not world.all_owned():  # noqa: ASYNC110 - time is simulated
            await asyncio.sleep(0.1)
        count = 0
        while not world.faults_over:
            await asyncio.sleep(random.uniform(0.01, 0.2))
            kind = "rooms" if random.random() < 0.7 else "users"
            key = random.choice(KEYS[kind])
            count += 1
            txn = self.unanswered = f"{self._number}.{count}"
            ordinal = await self._until_answered(kind, key, "PUT", txn)
            self.unanswered = ""
            world.invariants.acknowledged(txn, ordinal)
            if kind == "users" and random.random() < 0.5:
                read = await self._until_answered(kind, key, "GET", "")
                if read < ordinal:
                    world.invariants.fail(f"{key} was read as {read} after {ordinal} was acknowledged")

    async def _until_answered(self, kind: str, key: str, method: str, txn: str) -> int:
        world = self._world
        while True:
            address = self._address(kind, key)
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    answer = await world.call(address, request_for(kind, key, method, txn.encode(), {}))
            except (RemoteServerError, TimeoutError) as error:
                answer = HttpResponse(502, {}, repr(error).encode())
            if answer.status == 200:
                ordinal: int = orjson.loads(answer.body)["ordinal"]
                return ordinal
            world.note(f"{method} {key} {txn} at {address}: {answer.status} {answer.body.decode()}")
            if world.calm:
                world.invariants.fail(f"{method} {key} {txn} failed though no process died: {answer}")
            await asyncio.sleep(0.3)

    def _address(self, kind: str, key: str) -> str:
        """Return the owner by the map, sometimes any process of the pool instead: the map is only a hint."""
        world = self._world
        owner = world.map.get((kind, slot_of(key)))
        if owner is None or world.random.random() < 0.2:
            pool = sorted({address for (of, _), address in world.map.items() if of == kind})
            return world.random.choice(pool) if pool else "no address"
        return owner


class SyncingClient:
    """Follow all rooms and users with one chain of sync tokens. Each sync goes to any reader."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._name = f"client {number}"
        self._token = format_token(StreamToken({}), LETTERS)
        self.rooms: dict[str, int] = {}
        self.users: dict[str, tuple[int, int]] = {}  # key -> position, ordinal

    async def run(self) -> None:
        world = self._world
        while True:
            await asyncio.sleep(world.random.uniform(0.1, 0.5))
            readers = [p for p in world.processes if p.running and p.reader is not None and p.reader.started]
            if not readers:
                continue
            process = world.random.choice(readers)
            reader = process.reader
            assert reader is not None
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    rows, token = await world.ask(process, lambda reader=reader: reader.sync(self._token))  # type: ignore[misc]
            except (Unavailable, RemoteServerError, TimeoutError):
                continue
            self._apply(process.host.name, rows)
            self._token = token

    def _apply(self, reader: str, rows: Any) -> None:
        fail = self._world.invariants.fail
        for row in rows[EVENTS.name]:
            if row.ordinal != self.rooms.get(row.key, 0) + 1:
                fail(f"{self._name} gets {row} from {reader} after ordinal {self.rooms.get(row.key, 0)}")
            self.rooms[row.key] = row.ordinal
        for row in rows[ACCOUNT_DATA.name]:
            if row.position > self.users.get(row.key, (0, 0))[0]:
                self.users[row.key] = (row.position, row.ordinal)

    def behind(self) -> str:
        """Return a description of stored rows that this client has not received, "" if it has all."""
        stored = self._world.invariants.ordinals
        rooms = {key: ordinal for (stream, key), ordinal in stored.items() if stream == EVENTS.name}
        users = {key: ordinal for (stream, key), ordinal in stored.items() if stream == ACCOUNT_DATA.name}
        if rooms != self.rooms:
            return f"{self._name} has rooms {self.rooms} of {rooms}"
        have = {key: ordinal for key, (_, ordinal) in self.users.items()}
        return "" if users == have else f"{self._name} has users {have} of {users}"
