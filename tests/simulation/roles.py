"""What the simulated processes do for their clients: owners of keys that write, and readers that serve syncs.

They stand for the workers, as small as can be: an owner keeps what it loaded of each key in memory and commits in
groups; a reader keeps the rows that replication brought. All that they stand on is production code.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import orjson

from replication.slots.table import SlotTable
from replication.streams import Kind, Stream
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from replication.streams.follower import Follower
from shared.core.errors import Fenced, Unavailable
from shared.core.slots import slot_of
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.http.request import Request, Response
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.fenced import FENCE, FencedStatement
from shared.storage.engine.pool import Database
from tests.simulation.invariants import Invariants
from tests.simulation.virtual_loop import VirtualLoop

_BATCH = 4
_TYPING_S = 0.4


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """key: a room or a user; ordinal: dense per key; txn: the client's."""

    position: int
    writer: int
    key: str
    ordinal: int
    txn: str
    prior_writer: int | None = None
    prior_position: int | None = None


#: A log stream and a state stream with slots' owners as writers, and an ephemeral one. The names are those of the
#: registry, since final positions are stored by name.
EVENTS = Stream(
    name="events",
    kind=Kind.LOG,
    writers=("event_persister",),
    exclusive=True,
    row=Row,
    token_letter="e",
    catch_up="events above",
)
ACCOUNT_DATA = Stream(
    name="account_data",
    kind=Kind.STATE,
    writers=("client_api",),
    exclusive=True,
    row=Row,
    token_letter="a",
    catch_up="account data above",
)
TYPING = Stream(name="typing", kind=Kind.EPHEMERAL, writers=("client_api",), exclusive=False, row=Row)
STREAMS = (EVENTS, ACCOUNT_DATA, TYPING)
STORED = (EVENTS, ACCOUNT_DATA)
LETTERS = {stream.name: stream.token_letter for stream in STORED}
STREAM_OF_KIND = {"rooms": EVENTS, "users": ACCOUNT_DATA}


def _simulated(text: str) -> FencedStatement[list[Any]]:
    return FencedStatement(f"WITH {FENCE} {text}", lambda items: (items,), text)


WRITE_EVENTS = _simulated("simulated events")
WRITE_ACCOUNT_DATA = _simulated("simulated account data")
READ_KEY = "simulated: what is stored of a key"


@dataclass
class Memory:
    """What an owner knows of a key: the last row, and who sent what. pending: sent, and not committed yet."""

    ordinal: int = 0
    last_writer: int | None = None
    last_position: int = 0
    done: dict[str, int] = field(default_factory=dict)
    pending: dict[str, "asyncio.Future[int]"] = field(default_factory=dict)


class Owner:
    """Serves the keys of the slots that are ours, and writes them, several in one statement."""

    def __init__(
        self,
        loop: VirtualLoop,
        kind: str,
        database: Database,
        writer: FencedWriter,
        announcer: Announcer,
        slots: SlotTable,
        tasks: TaskGroup,
    ) -> None:
        self._loop = loop
        self._kind = kind
        self._stream = STREAM_OF_KIND[kind]
        self._statement = WRITE_EVENTS if kind == "rooms" else WRITE_ACCOUNT_DATA
        self._database = database
        self._writer = writer
        self._announcer = announcer
        self._slots = slots
        self._tasks = tasks
        self._memory: dict[str, asyncio.Task[Memory]] = {}
        self._queue: list[tuple[str, Memory, str]] = []
        self._committing = False
        slots.on_change(self._changed)

    def _changed(self, kind: str, now: set[int]) -> None:
        if kind == self._kind:
            for key in [key for key in self._memory if slot_of(key) not in now]:
                del self._memory[key]

    async def handle(self, request: Request) -> Response:
        (key,) = request.params.values()
        memory = await self._load(key)
        if request.method == "GET":
            return Response(orjson.dumps({"ordinal": memory.ordinal}))
        txn = request.body.decode()
        if txn in memory.done:
            return Response(orjson.dumps({"ordinal": memory.done[txn]}))
        if txn not in memory.pending:
            memory.pending[txn] = self._loop.create_future()
            self._queue.append((key, memory, txn))
            if not self._committing:
                self._committing = True
                self._tasks.spawn(self._commit_all(), "commit")
        ordinal = await asyncio.shield(memory.pending[txn])
        return Response(orjson.dumps({"ordinal": ordinal}))

    async def _load(self, key: str) -> Memory:
        if key not in self._memory:
            self._memory[key] = self._tasks.spawn(self._read(key), f"load {key}")
        loading = self._memory[key]
        try:
            return await asyncio.shield(loading)
        except Unavailable:
            if self._memory.get(key) is loading:
                del self._memory[key]
            raise

    async def _read(self, key: str) -> Memory:
        rows = await self._database.fetch(READ_KEY, self._stream.name, key)
        memory = Memory(done={row["txn"]: row["ordinal"] for row in rows})
        if rows:
            last = rows[-1]
            memory.ordinal, memory.last_writer, memory.last_position = (
                last["ordinal"],
                last["writer"],
                last["position"],
            )
        return memory

    async def _commit_all(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                await self._commit(batch)
        finally:
            self._committing = False

    async def _commit(self, batch: Sequence[tuple[str, Memory, str]]) -> None:
        last: dict[str, tuple[int, int | None, int]] = {}
        items = []
        for key, memory, txn in batch:
            ordinal, writer, position = last.get(key, (memory.ordinal, memory.last_writer, memory.last_position))
            foreign = writer is not None and writer != self._writer.lease
            items.append((key, ordinal + 1, txn, writer if foreign else None, position if foreign else None))
            last[key] = (ordinal + 1, self._writer.lease, 0)
        try:
            record = await self._writer.write(self._statement, items, streams=(self._stream.name,))
        except Fenced as error:
            for _, memory, txn in batch:
                memory.pending.pop(txn).set_exception(error)
            return
        rows = [
            Row(position, self._writer.lease, *item) for position, item in zip(record["positions"], items, strict=True)
        ]
        self._announcer.announce(self._stream, rows)
        for (_, memory, txn), row in zip(batch, rows, strict=True):
            memory.ordinal, memory.last_writer, memory.last_position = row.ordinal, row.writer, row.position
            memory.done[txn] = row.ordinal
            future = memory.pending.pop(txn)
            if not future.done():
                future.set_result(row.ordinal)


class Typist:
    """Tells passing things: a few keys, each with its newest value. values: key -> value, all that is valid now."""

    def __init__(self, random: Random, announcer: Announcer, lease: int, quiet: Callable[[], bool]) -> None:
        self._random = random
        self._announcer = announcer
        self._lease = lease
        self._quiet = quiet
        self.values: dict[str, int] = {}
        announcer.set_values(TYPING, lambda: [self._row(key) for key in self.values])

    async def run(self) -> None:
        await asyncio.sleep(_TYPING_S)
        if not self._quiet():
            key = self._random.choice(("a", "b", "c"))
            self.values[key] = self.values.get(key, 0) + 1
            self._announcer.announce(TYPING, [self._row(key)])

    def _row(self, key: str) -> Row:
        position = self._announcer.next_ephemeral_position(TYPING)
        return Row(position, self._lease, key, self.values[key], "")


class Reader:
    """Follows all streams and answers syncs from its memory. Every reader watches itself (`invariants.py`)."""

    def __init__(self, name: str, database: Database, follower: Follower, invariants: Invariants) -> None:
        self.name = name
        self._database = database
        self._follower = follower
        self._invariants = invariants
        self.rows: dict[str, dict[int, Row]] = {stream.name: {} for stream in STORED}
        self._applied: dict[str, dict[int, int]] = {stream.name: {} for stream in STORED}  # writer -> position
        self._ordinals: dict[str, int] = {}
        self.started = False
        for stream in STORED:
            follower.follow(stream, lambda rows, stream=stream: self._apply(stream, rows))  # type: ignore[misc]
        self.told: dict[tuple[int, str], tuple[int, int]] = {}  # (writer, key) -> position, value
        follower.follow(TYPING, self._hear, self._over)

    async def start(self) -> None:
        """Load what was there before: from now on the vectors say what is in memory."""
        for stream in STORED:
            for record in await self._database.fetch(stream.catch_up, 0, 1_000_000):
                row = Row(**record)
                self.rows[stream.name].setdefault(row.position, row)
        self.started = True

    def _apply(self, stream: Stream, rows: Sequence[Row]) -> None:
        applied = self._applied[stream.name]
        for row in rows:
            if row.position <= applied.get(row.writer, 0):
                self._invariants.fail(f"{self.name} applies {stream.name} {row} after {applied[row.writer]}")
            applied[row.writer] = row.position
            self.rows[stream.name][row.position] = row
            # Before it has begun, a reader may be told of a row and not of the older one that another writer wrote in
            # between: its writers begin where each of them was, and what is older is loaded from the database.
            if stream is EVENTS and self.started:
                before = self._ordinals.get(row.key)
                if before is not None and row.ordinal != before + 1:
                    self._invariants.fail(f"{self.name} applies {row} after ordinal {before}")
                self._ordinals[row.key] = row.ordinal

    def _hear(self, rows: Sequence[Row]) -> None:
        for row in rows:
            before = self.told.get((row.writer, row.key), (0, 0))
            if row.position <= before[0] or row.ordinal < before[1]:
                self._invariants.fail(f"{self.name} hears {row} after {before}")
            self.told[row.writer, row.key] = (row.position, row.ordinal)

    def _over(self, writer: int, position: int) -> None:
        for of, key in [place for place in self.told if place[0] == writer]:
            if self.told[of, key][0] <= position:
                del self.told[of, key]

    def told_wrongly(self, valid: Mapping[tuple[int, str], int]) -> str:
        """Return what of the passing things is not as their writers have it, "" for nothing."""
        told = {place: value for place, (_, value) in self.told.items()}
        return "" if told == valid else f"{self.name} was told {told}, valid is {valid}"

    async def sync(self, text: str) -> tuple[Mapping[str, Sequence[Row]], str]:
        """Return (new rows by stream, next token). Raises Unavailable when the token's place is not reached in time."""
        token = parse_token(text, LETTERS)
        for stream in STORED:
            if not await self._follower.wait_for(stream, token.vector(stream.name), 3.0):
                raise Unavailable("The token's place is not reached yet")
        now = {stream.name: self._follower.vector(stream) for stream in STORED}
        self.check_honesty()
        answer = {}
        for name, vector in now.items():
            since = token.vector(name)
            answer[name] = [
                row
                for _, row in sorted(self.rows[name].items())
                if vector.covers(row.writer, row.position) and not since.covers(row.writer, row.position)
            ]
        return answer, format_token(StreamToken(now), LETTERS)

    def check_honesty(self) -> None:
        """What is behind our vectors must be in our memory."""
        for stream in STORED:
            vector, have = self._follower.vector(stream), self.rows[stream.name]
            for row in self._invariants.database.tables.rows[stream.name]:
                if row.position not in have and vector.covers(row.writer, row.position):
                    self._invariants.fail(f"{self.name} says that it has {stream.name} {row}: {vector}")

    def lacks(self) -> str:
        """Return what is stored and not behind our vectors yet, "" for nothing."""
        for stream in STORED:
            vector = self._follower.vector(stream)
            for row in self._invariants.database.tables.rows[stream.name]:
                if not vector.covers(row.writer, row.position):
                    return f"{self.name} lacks {stream.name} {row}: {vector}"
        return ""
