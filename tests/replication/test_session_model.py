"""The reader's session under a random world: writers join, die and hand rooms over; frames are lost and reordered.

A small model of a fleet drives the real `StreamSession` and the real vectors. Clients hop between readers with their
tokens; at the end every client has every room's rows once, in order. The last test plants bugs and expects the model
to find each (`replication_evidence.md`, tests 4 and 8).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from replication.session import Outcome, StreamSession, WriterState
from replication.wire import VERSION, Frame, Progress, Tick
from shared.core.sync_tokens.vector import Vector


@dataclass(frozen=True)
class Row:
    position: int
    writer: int
    room: int
    ordinal: int
    prior_writer: int | None = None
    prior_position: int | None = None


class LostOrReordered(AssertionError):
    pass


@dataclass
class Writer:
    number: int
    seen: int
    last: int = 0  # on the channel
    under_way: list[int] | None = None  # rooms of a statement that was sent
    taken: list[int] = field(default_factory=list)
    floor: int = 0
    reached: int = 0  # stored beside the heartbeat


class World:
    def __init__(self, seed: int, bug: str = "") -> None:
        self.random = random.Random(seed)
        self.bug = bug
        self.sequence = 0
        self.rows: list[Row] = []
        self.table: dict[int, WriterState] = {}
        self.writers: dict[int, Writer] = {}
        self.rooms: dict[int, int] = {}
        self.ordinals = dict.fromkeys(range(4), 0)
        self.numbers = 0
        for _ in range(2):
            self.join()
        for room in range(4):
            self.rooms[room] = self.random.choice(list(self.writers))
        self.readers = [Reader(self) for _ in range(3)]
        self.clients = [Client(self) for _ in range(2)]

    def join(self) -> None:
        self.numbers += 1
        self.table[self.numbers] = WriterState(self.numbers, self.sequence, None)
        self.writers[self.numbers] = Writer(self.numbers, seen=self.sequence)

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.45:
            self.write(self.random.choice(list(self.writers.values())))
        elif chance < 0.70:
            self.random.choice(self.readers).deliver_one()
        elif chance < 0.79:
            self.tick(self.random.choice(list(self.writers.values())))
        elif chance < 0.82 and len(self.writers) < 5:
            self.join()
        elif chance < 0.86 and len(self.writers) > 1:
            self.kill(self.random.choice(list(self.writers.values())))
        elif chance < 0.89:
            self.move()
        elif chance < 0.91:
            self.random.choice(self.readers).repair()
        else:
            self.random.choice(self.clients).sync(self.random.choice(self.readers))

    def write(self, writer: Writer) -> None:
        """One step of the writer's statement: send it, take positions inside it, commit it."""
        if writer.under_way is None:
            mine = [room for room, owner in self.rooms.items() if owner == writer.number]
            if mine:
                writer.under_way = [self.random.choice(mine) for _ in range(self.random.randint(1, 3))]
                writer.taken = []
                writer.floor = writer.seen
        elif not writer.taken:
            for _ in writer.under_way:
                self.sequence += 1
                writer.taken.append(self.sequence)
        else:
            rows = self.commit(writer) if self.random.random() < 0.9 else []
            writer.under_way = None
            if rows:
                self.publish(writer, rows)

    def commit(self, writer: Writer) -> list[Row]:
        rows: list[Row] = []
        assert writer.under_way is not None
        for position, room in zip(writer.taken, writer.under_way, strict=True):
            before = max((r for r in [*self.rows, *rows] if r.room == room), key=lambda r: r.ordinal, default=None)
            self.ordinals[room] += 1
            foreign = before is not None and before.writer != writer.number and self.bug != "no prior"
            rows.append(
                Row(
                    position, writer.number, room, self.ordinals[room],
                    before.writer if foreign and before else None, before.position if foreign and before else None,
                )
            )  # fmt: skip
        self.rows.extend(rows)
        return rows

    def publish(self, writer: Writer, rows: list[Row]) -> None:
        current = rows[-1].position
        frame = Frame(VERSION, "events", writer.number, "events", writer.last, current, [])
        writer.last = current
        writer.seen = max(writer.seen, current)
        for other in self.writers.values():
            if self.random.random() < 0.7:
                other.seen = max(other.seen, current)
        for reader in self.readers:
            if self.random.random() < 0.85:
                reader.queue.setdefault(writer.number, []).append((frame, rows))

    def tick(self, writer: Writer) -> None:
        busy = writer.under_way is not None and self.bug != "no floor"
        writer.reached = max(writer.reached, writer.floor if busy else writer.seen)
        tick = Tick(VERSION, writer.number, {"events": Progress(writer.reached, {"events": writer.last})}, {})
        for reader in self.readers:
            if self.random.random() < 0.6:
                for frame, rows in reader.queue.pop(writer.number, []):
                    reader.carry_out(reader.session.receive(frame, rows))
                reader.carry_out(reader.session.tick(tick))

    def kill(self, writer: Writer) -> None:
        if writer.under_way is not None and writer.taken and self.random.random() < 0.5:
            self.commit(writer)  # committed, never announced
        start = self.table[writer.number].start
        final = max([row.position for row in self.rows if row.writer == writer.number], default=start)
        self.table[writer.number] = WriterState(writer.number, start, max(final, start))
        del self.writers[writer.number]
        for room, owner in self.rooms.items():
            if owner == writer.number:
                self.rooms[room] = self.random.choice(list(self.writers))

    def move(self) -> None:
        room = self.random.choice(list(self.rooms))
        owner, heir = self.writers[self.rooms[room]], self.random.choice(list(self.writers.values()))
        if owner.under_way is None and owner is not heir:
            self.rooms[room] = heir.number


class Reader:
    def __init__(self, world: World) -> None:
        self.world = world
        self.session = StreamSession("events")
        self.queue: dict[int, list[tuple[Frame, list[Row]]]] = {}
        self.applied: list[Row] = []
        self.learn()

    def learn(self) -> None:
        table = self.world.table
        self.session.learn_writers(max(table), table.values())
        if self.world.bug == "dead dropped at once":
            for writer, state in table.items():
                if state.final is not None:
                    self.session.positions.pop(writer, None)
                    self.session.finals.pop(writer, None)
            self.session._vector = None

    def deliver_one(self) -> None:
        waiting = [writer for writer, frames in self.queue.items() if frames]
        if waiting:
            frame, rows = self.queue[self.world.random.choice(waiting)].pop(0)
            self.carry_out(self.session.receive(frame, rows), frame.writer)

    def carry_out(self, outcome: Outcome, writer: int | None = None) -> None:
        self.applied.extend(outcome.rows)
        if outcome.repair:
            if self.world.bug == "one writer repaired" and writer is not None:
                self.learn()
                self.applied.extend(self.session.repaired([r for r in self.world.rows if r.writer == writer]).rows)
            else:
                self.repair()

    def repair(self) -> None:
        self.learn()
        rows = sorted(
            (r for r in self.world.rows if r.position > self.session.least_position), key=lambda r: r.position
        )
        self.carry_out(self.session.repaired(rows))
        self.session.idle_writers({w.number: w.reached for w in self.world.writers.values()})


class Client:
    def __init__(self, world: World) -> None:
        self.world = world
        self.token = Vector()
        self.got = dict.fromkeys(world.rooms, 0)

    def sync(self, reader: Reader) -> None:
        if not reader.session.covers(self.token):
            reader.repair()
            if not reader.session.covers(self.token):
                raise LostOrReordered("a repaired reader does not cover the token of another")
        now = reader.session.vector()
        for row in sorted(self.world.rows, key=lambda r: r.position):
            if now.covers(row.writer, row.position) and not self.token.covers(row.writer, row.position):
                if row.ordinal != self.got[row.room] + 1:
                    raise LostOrReordered(f"room {row.room}: {row.ordinal} after {self.got[row.room]}")
                self.got[row.room] = row.ordinal
        self.token = now


def run(seed: int, bug: str = "", steps: int = 300) -> World:
    world = World(seed, bug)
    for _ in range(steps):
        world.step()
    for writer in world.writers.values():
        if writer.under_way is not None and writer.taken:
            world.commit(writer)
    for client in world.clients:
        reader = world.random.choice(world.readers)
        reader.repair()
        client.sync(reader)
        if client.got != world.ordinals:
            raise LostOrReordered(f"the client has {client.got} of {world.ordinals}")
    return world


def test_every_client_gets_every_row_once_and_in_order() -> None:
    for seed in range(400):
        run(seed)


def test_what_a_reader_applies_is_in_order_within_each_room() -> None:
    for seed in range(150):
        for reader in run(seed).readers:
            last: dict[int, int] = {}
            for row in reader.applied:
                assert row.ordinal > last.get(row.room, 0), f"seed {seed}"
                last[row.room] = row.ordinal


@pytest.mark.parametrize("bug", ["no floor", "no prior", "dead dropped at once", "one writer repaired"])
def test_a_planted_bug_is_found(bug: str) -> None:
    found: Callable[[int], bool] = lambda seed: _fails(seed, bug)  # noqa: E731
    assert any(found(seed) for seed in range(1500)), f"{bug!r} was not found"


def _fails(seed: int, bug: str) -> bool:
    try:
        run(seed, bug)
    except LostOrReordered:
        return True
    return False


def test_rows_of_a_frame_survive_the_wire() -> None:
    from replication import rows, wire

    row = rows.SessionRow(7, 3, "@a:b", None)
    (message,) = wire.encode_frames("sessions", 3, "sessions", 5, [(7, wire.encode_row(row))])
    frame = wire.decode_frame(message)
    assert (frame.previous, frame.current) == (5, 7)
    assert wire.row_decoder(rows.SessionRow).decode(frame.rows[0]) == row


def test_a_message_of_another_version_is_ignored() -> None:
    from replication import wire

    with pytest.raises(wire.WireError):
        wire.decode_tick(msgspec.msgpack.encode([99, 1, {}, {}]))
