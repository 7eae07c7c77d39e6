"""The roles of simulated processes: owners of keys that write, and readers that serve syncs.

They are minimal workers on top of production code. An owner keeps the loaded state of each key in memory and commits
in groups. A reader keeps the rows that replication delivered.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

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
    """A stored row.

    key: a room or a user.
    ordinal: dense per key.
    txn: the transaction id of the client.
    """

    position: int
    writer: int
    key: str
    ordinal: int
    txn: str
    prior_writer: int | None = None
    prior_position: int | None = None


#: A log stream and a state stream, written by the owners of slots, and an ephemeral stream. The names come from the
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
READ_KEY = "simulated: the stored rows of a key"


@dataclass
class Memory:
    """The state of one key in an owner's memory.

    done: txn -> ordinal, of committed rows.
    pending: the requests whose rows are not committed yet, by txn.
    """

    ordinal: int = 0
    last_writer: int | None = None
    last_position: int = 0
    done: dict[str, int] = field(default_factory=dict)
    pending: dict[str, "asyncio.Future[int]"] = field(default_factory=dict)


class Owner:
    """Serve the keys of the slots that this process owns, and write several of them in one statement."""

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

    def _changed(self, kind: str, owned: set[int]) -> None:
        if kind == self._kind:
            for key in [key for key in self._memory if slot_of(key) not in owned]:
                del self._memory[key]

    async def handle(self, request: Request) -> Response:
        (key,) = cast("Mapping[str, str]", request.params).values()
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
            other_writer = writer is not None and writer != self._writer.lease
            items.append((key, ordinal + 1, txn, writer if other_writer else None, position if other_writer else None))
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


class ActiveTyping:
    """The source of an ephemeral stream: a few keys, each with its latest value.

    values: key -> value, all that is valid now.
    """

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
    """Follow all streams and answer syncs from memory. Each reader checks its own invariants."""

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
        self.ephemeral: dict[tuple[int, str], tuple[int, int]] = {}  # (writer, key) -> position, value
        follower.follow(TYPING, self._receive_ephemeral, self._end_ephemeral)

    async def start(self) -> None:
        """Load the older rows. From now on memory holds every row that the vectors cover."""
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
            # Before its start, a reader may receive a row without the older row of another writer: it follows each
            # writer from that writer's position at the time, and `start` loads the older rows from the database.
            if stream is EVENTS and self.started:
                before = self._ordinals.get(row.key)
                if before is not None and row.ordinal != before + 1:
                    self._invariants.fail(f"{self.name} applies {row} after ordinal {before}")
                self._ordinals[row.key] = row.ordinal

    def _receive_ephemeral(self, rows: Sequence[Row]) -> None:
        for row in rows:
            before = self.ephemeral.get((row.writer, row.key), (0, 0))
            if row.position <= before[0] or row.ordinal < before[1]:
                self._invariants.fail(f"{self.name} receives {row} after {before}")
            self.ephemeral[row.writer, row.key] = (row.position, row.ordinal)

    def _end_ephemeral(self, writer: int, position: int) -> None:
        for entry in [entry for entry in self.ephemeral if entry[0] == writer]:
            if self.ephemeral[entry][0] <= position:
                del self.ephemeral[entry]

    def wrong_ephemeral(self, valid: Mapping[tuple[int, str], int]) -> str:
        """Return a description of ephemeral values that differ from those of their writers, "" if none differ."""
        values = {entry: value for entry, (_, value) in self.ephemeral.items()}
        return "" if values == valid else f"{self.name} has ephemeral values {values}, valid are {valid}"

    async def sync(self, text: str) -> tuple[Mapping[str, Sequence[Row]], str]:
        """Return (new rows by stream, next token). Raise Unavailable if the token is not reached in time."""
        token = parse_token(text, LETTERS)
        for stream in STORED:
            if not await self._follower.wait_for(stream, token.vector(stream.name), 3.0):
                raise Unavailable("The token is not reached yet")
        now = {stream.name: self._follower.vector(stream) for stream in STORED}
        self.check_vectors()
        answer = {}
        for name, vector in now.items():
            since = token.vector(name)
            answer[name] = [
                row
                for _, row in sorted(self.rows[name].items())
                if vector.covers(row.writer, row.position) and not since.covers(row.writer, row.position)
            ]
        return answer, format_token(StreamToken(now), LETTERS)

    def check_vectors(self) -> None:
        """Check that memory holds every row that the vectors cover."""
        for stream in STORED:
            vector, have = self._follower.vector(stream), self.rows[stream.name]
            for row in self._invariants.database.tables.rows[stream.name]:
                if row.position not in have and vector.covers(row.writer, row.position):
                    self._invariants.fail(f"{self.name} covers {stream.name} {row} without having it: {vector}")

    def missing(self) -> str:
        """Return a description of a stored row that the vectors do not cover yet, "" if they cover all."""
        for stream in STORED:
            vector = self._follower.vector(stream)
            for row in self._invariants.database.tables.rows[stream.name]:
                if not vector.covers(row.writer, row.position):
                    return f"{self.name} misses {stream.name} {row}: {vector}"
        return ""
