"""Clients that send and read during faults, with records of acknowledgements, failures and deliveries.

A `Sender` sends numbered messages, one after another in each of its rooms, and retries until each is acknowledged. A
`Listener` long-polls /sync, with a timeline of any length, and fetches the events that a limited timeline left out. An
`ActiveUser` sends receipts, account data and typing. `Traffic` runs them together and compares at the end.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import orjson

from load.harness.clients import User, register
from tests.fix_fleet import RunningFleet
from tests.fleet.observing import PROGRAMS

CLIENT = "/_matrix/client/v3"
#: Statuses after which a client retries. 0: the connection ended, or there was no answer in time.
_PASSING = (0, 502, 503, 504)
_ANSWER_LIMIT_S = 15.0
_RETRY_AFTER_S = 0.1
_GIVE_UP_AFTER_S = 60.0
_SETTLE_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt of a request. attempt: counts from 1."""

    at_s: float
    request: str
    attempt: int
    answer: str


@dataclass(slots=True)
class Record:
    """The record of all requests. durations: (start, seconds until the answer 200), by request."""

    failures: list[Failure] = field(default_factory=list)
    durations: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    sent_at: dict[str, float] = field(default_factory=dict)  # event id -> time of the first attempt
    acknowledged_at: dict[str, float] = field(default_factory=dict)

    async def ask(self, user: User, request: str, method: str, path: str, body: Any = None) -> Any:
        """Retry a request until the answer is 200, and return its JSON. request: its name in the record."""
        raw = b"" if body is None else orjson.dumps(body)
        began_s, attempt = now(), 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(_ANSWER_LIMIT_S):
                    status, answer = await user.connection.raw_request(method, CLIENT + path, raw)
            except (OSError, TimeoutError) as error:
                user.connection.close()
                status, answer = 0, repr(error).encode()
            if status == 200:
                self.durations.setdefault(request, []).append((began_s, now() - began_s))
                return orjson.loads(answer)
            assert status in _PASSING, f"{request} {path}: {status} {answer.decode()}"
            assert now() - began_s < _GIVE_UP_AFTER_S, f"{request} {path}: {status} {answer.decode()}"
            self.failures.append(Failure(now(), request, attempt, f"{status} {answer[:150].decode()}"))
            await asyncio.sleep(_RETRY_AFTER_S)

    def failed_again(self, since_s: float, until_s: float = math.inf) -> list[Failure]:
        """Return the failures that a client with one retry would have noticed in a period."""
        return [each for each in self.failures if each.attempt > 1 and since_s < each.at_s < until_s]

    def longest(self, request: str, since_s: float = 0.0) -> float:
        return max((took for began, took in self.durations.get(request, ()) if began >= since_s), default=0.0)


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(holds: Callable[[], object], limit_s: float) -> bool:
    """Wait until a condition holds. Return True if it holds in the end."""
    end_s = now() + limit_s
    while not (found := holds()) and now() < end_s:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.1)
    return bool(found)


@dataclass(frozen=True, slots=True)
class ObservedFleet:
    """A fleet, with the test's own way to its database."""

    fleet: RunningFleet
    dsn: str

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(self.dsn)
        try:
            return list(await conn.fetch(statement, *args))
        finally:
            await conn.close()

    async def leases(self) -> dict[str, int]:
        """Return the lease of each ready process by name."""
        rows = await self.fetch(
            "SELECT process, lease FROM leases JOIN heartbeats USING (lease) WHERE NOT revoked AND ready"
        )
        return {row["process"]: row["lease"] for row in rows}

    async def owners(self, kind: str = "rooms") -> dict[str | None, int]:
        """Return the number of slots of each process by name. None: without an owner."""
        rows = await self.fetch(
            "SELECT process, count(*) FROM slots LEFT JOIN leases ON lease = owner WHERE kind = $1 GROUP BY 1", kind
        )
        return {row["process"]: row["count"] for row in rows}

    def pids(self) -> dict[str, int]:
        return {name: each["pid"] for name, each in self.fleet.processes().items()}

    async def even(self) -> bool:
        """Return True if every slot has an owner, none is moving, and the owners have equal numbers."""
        rows = await self.fetch(
            "SELECT kind, count(*), bool_or(owner IS NULL OR next_owner IS NOT NULL) AS moves FROM slots"
            " WHERE kind IN ('rooms', 'users') GROUP BY kind, owner"
        )
        counts: dict[str, list[int]] = {}
        for row in rows:
            counts.setdefault(row["kind"], []).append(row["count"])
        processes = dict.fromkeys(("event_persister", "client_api"), 0)
        for each in await self.fetch("SELECT type FROM leases JOIN heartbeats USING (lease) WHERE ready"):
            processes[each["type"]] = processes.get(each["type"], 0) + 1
        expected = {"rooms": processes["event_persister"], "users": processes["client_api"]}
        return not any(row["moves"] for row in rows) and all(
            len(found) == expected[kind] and max(found) - min(found) <= 1 for kind, found in counts.items()
        )

    async def until_complete(self, limit_s: float = 25.0) -> None:
        """Wait until every process has a lease and is ready, and the slots are even."""
        workers = {
            name for name, each in self.fleet.processes().items() if each["type"] not in (*PROGRAMS, "supervisor")
        }
        end_s = now() + limit_s
        while set(await self.leases()) < workers or not await self.even():
            assert now() < end_s, (workers - set(await self.leases()), await self.owners())
            await asyncio.sleep(0.2)


@dataclass(slots=True)
class Sender:
    """Sends to its rooms one after another. pace_s: the time between two messages in each room."""

    user: User
    rooms: Sequence[str]
    record: Record
    pace_s: float
    acknowledged: dict[str, list[str]] = field(default_factory=dict)

    async def send_all(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for room in self.rooms:
                await self.send(room, number)
                await asyncio.sleep(self.pace_s / len(self.rooms))

    async def send(self, room: str, number: int, body: str = "") -> str:
        path = f"/rooms/{quote(room)}/send/m.room.message/n{number}{quote(body[:20])}"
        began_s = now()
        content = {"msgtype": "m.text", "body": body or f"{self.user.user_id} {number}"}
        event_id: str = (await self.record.ask(self.user, "send", "PUT", path, content))["event_id"]
        self.record.sent_at[event_id] = began_s
        self.record.acknowledged_at[event_id] = now()
        self.acknowledged.setdefault(room, []).append(event_id)
        return event_id


@dataclass(slots=True)
class Listener:
    """A client that long-polls. limit: of the timeline."""

    user: User
    record: Record
    limit: int
    since: str = ""
    seen: dict[str, list[str]] = field(default_factory=dict)  # room -> its messages in this client
    arrived_at: dict[str, float] = field(default_factory=dict)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)  # (room, user) -> event
    account_data: dict[tuple[str, str], Any] = field(default_factory=dict)  # (room or "", type) -> content
    gaps: int = 0

    async def sync(self, timeout_ms: int) -> None:
        """Sync once, and add the answer to the known events."""
        limit = quote(f'{{"room":{{"timeline":{{"limit":{self.limit}}}}}}}')
        since = f"&since={quote(self.since)}" if self.since else ""
        answer = await self.record.ask(self.user, "sync", "GET", f"/sync?timeout={timeout_ms}&filter={limit}{since}")
        first, self.since = not self.since, answer["next_batch"]
        self._take_account_data("", answer.get("account_data", {}))
        for room, part in answer.get("rooms", {}).get("join", {}).items():
            self._take_account_data(room, part.get("account_data", {}))
            for event in part.get("ephemeral", {}).get("events", ()):
                if event["type"] == "m.receipt":
                    for event_id, kinds in event["content"].items():
                        self.receipts.update({(room, reader): event_id for reader in kinds.get("m.read", ())})
            timeline = part.get("timeline", {})
            events = timeline.get("events", [])
            if timeline.get("limited") and not first:
                self.gaps += 1
                events = [*await self._gap(room, timeline["prev_batch"]), *events]
            fresh = [event["event_id"] for event in events if event["type"] == "m.room.message"]
            self.seen.setdefault(room, []).extend(fresh)
            self.arrived_at.update(dict.fromkeys(fresh, now()))

    async def listen(self) -> None:
        while True:
            await self.sync(10_000)

    async def _gap(self, room: str, start: str) -> list[dict[str, Any]]:
        """Return the events between the known ones and a limited timeline, oldest first."""
        known = set(self.seen.get(room, ()))
        found: list[dict[str, Any]] = []
        while True:
            path = f"/rooms/{quote(room)}/messages?dir=b&limit=50&from={quote(start)}"
            page = await self.record.ask(self.user, "messages", "GET", path)
            for event in page["chunk"]:
                if event["event_id"] in known:
                    return found[::-1]
                found.append(event)
            if "end" not in page:
                return found[::-1]
            start = page["end"]

    def _take_account_data(self, room: str, part: dict[str, Any]) -> None:
        self.account_data.update({(room, event["type"]): event["content"] for event in part.get("events", ())})


@dataclass(slots=True)
class ActiveUser:
    """Sends receipts for the events of a listener of the same user, account data of both kinds, and typing."""

    user: User
    listener: Listener
    rooms: Sequence[str]
    record: Record
    pace_s: float
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    account_data: dict[tuple[str, str], Any] = field(default_factory=dict)

    async def act(self, stop: asyncio.Event) -> None:
        me, number = quote(self.user.user_id), 0
        while not stop.is_set():
            number += 1
            room, content = self.rooms[number % len(self.rooms)], {"n": number}
            await self._ask("account_data", "PUT", f"/user/{me}/account_data/org.skep.count", content)
            self.account_data["", "org.skep.count"] = content
            in_room = f"/user/{me}/rooms/{quote(room)}/account_data/org.skep.place"
            await self._ask("account_data", "PUT", in_room, content)
            self.account_data[room, "org.skep.place"] = content
            await self._ask(
                "typing", "PUT", f"/rooms/{quote(room)}/typing/{me}", {"typing": bool(number % 2), "timeout": 5000}
            )
            if self.listener.seen.get(room):
                last = self.listener.seen[room][-1]
                await self._ask("receipt", "POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(last)}", {})
                self.receipts[room, self.user.user_id] = last
            await asyncio.sleep(self.pace_s)

    async def _ask(self, request: str, method: str, path: str, body: Any) -> None:
        await self.record.ask(self.user, request, method, path, body)


@dataclass(slots=True)
class Traffic:
    record: Record
    senders: list[Sender]
    listeners: list[Listener]
    active_users: list[ActiveUser]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all clients during the body. Afterwards everything has arrived everywhere."""
        for listener in self.listeners:
            await listener.sync(0)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(each.listen()) for each in self.listeners]
            others = [group.create_task(each.send_all(stop)) for each in self.senders]
            others += [group.create_task(each.act(stop)) for each in self.active_users]
            yield
            stop.set()
            await asyncio.wait(others)
            await until(self._settled, _SETTLE_LIMIT_S)
            for task in listening:
                task.cancel()

    def acknowledged(self, room: str) -> list[list[str]]:
        """Return the acknowledged events of a room: a list for each sender, in their order."""
        return [each.acknowledged[room] for each in self.senders if room in each.acknowledged]

    @property
    def rooms(self) -> set[str]:
        return {room for sender in self.senders for room in sender.rooms}

    def delays(self, since_s: float = 0.0, until_s: float = math.inf, rooms: Iterable[str] = ()) -> list[float]:
        """Return the seconds from sending to arrival at each listener, for messages sent in a period."""
        wanted = {e for room in rooms or self.rooms for events in self.acknowledged(room) for e in events}
        sent = self.record.sent_at
        return [
            at_s - sent[event]
            for listener in self.listeners
            for event, at_s in listener.arrived_at.items()
            if event in wanted and since_s <= sent[event] < until_s
        ]

    def stalls(self, longer_than_s: float) -> list[tuple[str, float]]:
        """Return (event, seconds) of each delivery this late after the acknowledgement."""
        return [
            (event, late_s)
            for listener in self.listeners
            for event, at_s in listener.arrived_at.items()
            if (late_s := at_s - self.record.acknowledged_at[event]) > longer_than_s
        ]

    async def check(self) -> None:
        """Check that every acknowledged event is there once and in order, on the server and for each listener."""
        for room in self.rooms:
            reader = next(sender for sender in self.senders if room in sender.rooms).user
            order = await history(self.record, reader, room)
            assert len(order) == len(set(order)), f"{room}: events twice in its history"
            for sent in self.acknowledged(room):
                own = set(sent)
                assert [event for event in order if event in own] == sent, f"{room}: lost, or out of order"
            assert len(order) == sum(map(len, self.acknowledged(room))), f"{room}: events that no sender sent"
            for listener in self.listeners:
                if room in listener.seen:
                    check_same(
                        f"{listener.user.user_id} (limit {listener.limit}) in {room}", listener.seen[room], order
                    )
        for active_user in self.active_users:
            for listener in self.listeners:
                for (room, reader_id), event in active_user.receipts.items():
                    if room in listener.seen:
                        assert listener.receipts.get((room, reader_id)) == event, f"receipt of {reader_id} in {room}"
                if listener.user.user_id == active_user.user.user_id:
                    found = {key: listener.account_data.get(key) for key in active_user.account_data}
                    assert found == active_user.account_data

    def _settled(self) -> bool:
        seen_all = all(
            len(listener.seen[room]) >= sum(map(len, self.acknowledged(room)))
            for listener in self.listeners
            for room in listener.seen
        )
        return seen_all and all(
            (room not in listener.seen or listener.receipts.get((room, who)) == event)
            for active_user in self.active_users
            for listener in self.listeners
            for (room, who), event in active_user.receipts.items()
        )


def check_same(where: str, seen: Sequence[str], expected: Sequence[str]) -> None:
    if list(seen) == list(expected):
        return
    missing = [event for event in expected if event not in set(seen)]
    twice = len(seen) - len(set(seen))
    raise AssertionError(
        f"{where}: {len(seen)} events seen, {len(expected)} expected, {len(missing)} missing, {twice} twice,"
        f" {'another order' if not missing and not twice else ''}; missing {missing[:3]}"
    )


async def history(record: Record, reader: User, room: str) -> list[str]:
    """Return the ids of a room's messages, oldest first."""
    found: list[str] = []
    start = ""
    while True:
        page = await record.ask(reader, "history", "GET", f"/rooms/{quote(room)}/messages?dir=f&limit=500{start}")
        found += [event["event_id"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if "end" not in page or not page["chunk"]:
            return found
        start = f"&from={quote(page['end'])}"


async def new_users(fleet: RunningFleet, prefix: str, count: int) -> list[User]:
    """Register users of a fleet."""
    parts = urlsplit(fleet.client_url)
    assert parts.hostname is not None and parts.port is not None
    place = parts.hostname, parts.port
    return list(await asyncio.gather(*(register(*place, f"{prefix}-{number}") for number in range(count))))


async def new_room(record: Record, creator: User, members: Iterable[User] = ()) -> str:
    """Create a public room with these members."""
    options = {"preset": "public_chat"}
    room: str = (await record.ask(creator, "createRoom", "POST", "/createRoom", options))["room_id"]
    for member in members:
        await record.ask(member, "join", "POST", f"/join/{quote(room)}", {})
    return room


async def common_rooms(
    fleet: RunningFleet, prefix: str, *, users: int, rooms: int, pace_s: float, limits: Sequence[int] = (1, 3, 20)
) -> Traffic:
    """Return traffic in shared rooms: each user sends in each room, and syncs with one of the limits."""
    record = Record()
    members = await new_users(fleet, prefix, users)
    made = [await new_room(record, members[0], members[1:]) for _ in range(rooms)]
    listeners = [
        Listener(user.on_another_connection(), record, limits[number % len(limits)])
        for number, user in enumerate(members)
    ]
    return Traffic(
        record,
        [Sender(user, made, record, pace_s) for user in members],
        listeners,
        [
            ActiveUser(user.on_another_connection(), listener, made, record, pace_s=0.5)
            for user, listener in zip(members, listeners, strict=True)
        ],
    )


def p99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
