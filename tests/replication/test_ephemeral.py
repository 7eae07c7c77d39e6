"""Ephemeral streams: they heal after lost frames, and values of a dead writer end."""

import asyncio
import random
from typing import Any

import pytest

from replication.bus import wire
from replication.streams import TYPING
from replication.streams.announcer import Announcer
from replication.streams.ephemeral_session import EphemeralSession
from replication.streams.fenced_writer import SeenPositions
from replication.streams.follower import Follower
from replication.streams.repeats import Repeater
from replication.streams.session import WriterState
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import TypingRow
from shared.storage.fleet.leases import fence
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import World, fleet

_DECODER = wire.row_decoder(TypingRow)
_FOREVER_MS = 1 << 60


class _Writer:
    """A writer of values by key, with the real announcer."""

    def __init__(self, lease: int, sent: "list[tuple[str, bytes]]") -> None:
        bus: Any = self
        self.lease = lease
        self.values: dict[UserId, int] = {}
        self._sent = sent
        self.announcer = Announcer(lease, bus, SeenPositions())
        self.announcer.set_values(TYPING, lambda: [self._row(key, value) for key, value in self.values.items()])

    def publish(self, channel: str, message: bytes) -> None:
        self._sent.append((channel, message))

    def put(self, key: UserId, value: int) -> None:
        if value:
            self.values[key] = value
        else:
            self.values.pop(key, None)
        self.announcer.announce(TYPING, [self._row(key, value)])

    def _row(self, key: UserId, value: int) -> TypingRow:
        return TypingRow(
            position=self.announcer.next_ephemeral_position(TYPING),
            writer=self.lease,
            room_id=RoomId("!r"),
            user_id=key,
            until_ms=value,
        )


class _Reader:
    """A reader that keeps value, writer and position by (writer, key)."""

    def __init__(self) -> None:
        self.session = EphemeralSession(TYPING.name)
        self.memory: dict[tuple[int, str], tuple[int, int]] = {}
        self.asks: set[int] = set()

    def learn(self, known: int, *writers: WriterState) -> None:
        self._apply(self.session.learn_writers(known, writers))

    def take(self, channel: str, message: bytes) -> None:
        if channel == wire.TICKS:
            self._apply(self.session.tick(wire.decode_tick(message)))
        else:
            frame = wire.decode_frame(message)
            self._apply(self.session.receive(frame, [_DECODER.decode(row) for row in frame.rows]))

    def _apply(self, outcome: Any) -> None:
        for row in outcome.rows:
            self.memory[row.writer, row.user_id] = row.until_ms, row.position
        for writer, position in outcome.over:
            self.memory = {k: v for k, v in self.memory.items() if k[0] != writer or v[1] > position}
        self.asks.update(outcome.ask)

    def values(self, writer: int) -> dict[str, int]:
        return {key: value for (who, key), (value, _) in self.memory.items() if who == writer and value}


@pytest.mark.parametrize("seed", range(20))
def test_ephemeral_stream_heals_after_lost_doubled_and_late_frames(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers publish random values over a wire that loses, doubles and delays frames. Requests then heal all."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 60)
    rng = random.Random(seed)
    sent: list[tuple[str, bytes]] = []
    writers = {lease: _Writer(lease, sent) for lease in (3, 4)}
    reader = _Reader()
    reader.learn(4, WriterState(3, 0, None), WriterState(4, 0, None))
    late: list[tuple[str, bytes]] = []

    def deliver(loss: float) -> None:
        arriving, sent[:] = list(sent), []
        for message in arriving:
            fate = rng.random()
            if fate < loss:
                late.append(message) if rng.random() < 0.5 else None
                continue
            for _ in range(2 if fate < 2 * loss else 1):
                reader.take(*message)
        if late and rng.random() < loss:
            reader.take(*late.pop(rng.randrange(len(late))))

    def tell_all(lease: int) -> None:
        writers[lease].announcer.repeat(TYPING)

    for _ in range(300):
        writer = rng.choice(list(writers.values()))
        writer.put(UserId(f"@{rng.randrange(6)}:x"), rng.choice((0, rng.randrange(1, 1000))))
        if rng.random() < 0.1:
            writer.announcer.tick([TYPING], lambda _: 0)
        for lease in list(reader.asks):
            if rng.random() < 0.3:
                reader.asks.discard(lease)
                tell_all(lease)
        deliver(0.15)
        for lease in set(writers) - set(reader.session.missed):
            # A complete reader is right up to frames under way: it has no value that was never published.
            assert set(reader.values(lease)) <= {f"@{n}:x" for n in range(6)}
    for _ in range(3):
        for writer in writers.values():
            writer.announcer.tick([TYPING], lambda _: 0)
        deliver(0.0)
        for lease in list(reader.asks):
            reader.asks.discard(lease)
            tell_all(lease)
        deliver(0.0)
    assert reader.session.missed == {}
    for lease, writer in writers.items():
        assert reader.values(lease) == writer.values


def test_repetition_of_several_frames_counts_only_when_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 60)
    sent: list[tuple[str, bytes]] = []
    writer, reader = _Writer(3, sent), _Reader()
    reader.learn(3, WriterState(3, 0, None))
    for number in range(40):
        writer.put(UserId(f"@{number}:x"), 5)
    sent.clear()  # all lost
    writer.announcer.tick([TYPING], lambda _: 0)
    reader.take(*sent.pop())
    assert reader.asks == {3}
    writer.announcer.repeat(TYPING)
    assert len(sent) > 5
    answer, sent[:] = list(sent), []
    for number, message in enumerate(answer):
        if number != 2:
            reader.take(*message)
    assert reader.session.missed and reader.values(3) != writer.values
    writer.announcer.repeat(TYPING)
    for message in sent:
        reader.take(*message)
    assert not reader.session.missed and reader.values(3) == writer.values


def test_values_of_fenced_writer_are_over() -> None:
    sent: list[tuple[str, bytes]] = []
    writer, other, reader = _Writer(3, sent), _Writer(4, sent), _Reader()
    reader.learn(4, WriterState(3, 0, None), WriterState(4, 0, None))
    writer.put(UserId("@a:x"), 5)
    other.put(UserId("@b:x"), 5)
    while sent:
        reader.take(*sent.pop(0))
    reader.learn(5, WriterState(3, 0, 0), WriterState(4, 0, None))
    assert reader.values(3) == {} and reader.values(4) == {"@b:x": 5}
    writer.put(UserId("@a:x"), 7)  # it does not know yet that it is fenced
    reader.take(*sent.pop())
    assert reader.values(3) == {}


async def test_repetitions_are_limited_to_two_a_second() -> None:
    repeated = []

    class FakeAnnouncer:
        def repeat(self, stream: Any) -> None:
            repeated.append(stream.name)

    repeater = Repeater(FakeAnnouncer(), [TYPING])
    for _ in range(100):
        repeater.requested("typing")
        repeater.requested("events")
    await asyncio.sleep(0.05)
    assert repeated == ["typing"]
    for _ in range(100):
        repeater.requested("typing")
    await asyncio.sleep(0.05)
    assert repeated == ["typing"]  # the second repetition waits half a second
    repeater.close()
    assert not Repeater(FakeAnnouncer(), [])


def _shown(answer: Any, room_id: RoomId) -> list[str] | None:
    for event in answer["rooms"]["join"].get(room_id, {}).get("ephemeral", {"events": ()})["events"]:
        if event["type"] == "m.typing":
            users: list[str] = event["content"]["user_ids"]
            return users
    return None


async def _next(client: Any, since: str, room_id: RoomId) -> tuple[str, list[str]]:
    async with asyncio.timeout(6):
        while True:
            answer = await client.sync(since, timeout=3000)
            since, users = answer["next_batch"], _shown(answer, room_id)
            if users is not None:
                return since, users


async def test_sync_shows_typing_despite_lost_frames(postgres: TestDatabase) -> None:
    """Lose a start and a stop, and fence a writer, through real followers and /sync."""
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        typing: dict[UserId, int] = {}
        world.announcer.set_values(TYPING, lambda: [_row(world, room_id, *item) for item in typing.items()])
        repeater = Repeater(world.announcer, [TYPING])
        listener: Any = world.announcer
        asked: list[str] = []
        follower: Follower = world.synchrotrons[0].foundation.follower

        def question(_channel: str, message: bytes) -> None:
            asked.append(wire.decode_repeat_request(message).stream)
            assert wire.decode_repeat_request(message).writer == listener.lease
            repeater.requested("typing")

        world.bus.subscribe([wire.REPEATS], question, lambda: None)
        since = (await alice.sync())["next_batch"]
        world.bus.holding = True
        typing[UserId("@lost:x")] = _FOREVER_MS
        world.set_typing(room_id, UserId("@lost:x"), _FOREVER_MS)
        world.bus.drop_held()
        typing[UserId("@arrived:x")] = _FOREVER_MS
        world.set_typing(room_id, UserId("@arrived:x"), _FOREVER_MS)
        since, users = await _next(alice, since, room_id)
        if sorted(users) != ["@arrived:x", "@lost:x"]:
            since, users = await _next(alice, since, room_id)
        assert sorted(users) == ["@arrived:x", "@lost:x"] and asked == ["typing"]
        # A stop is lost, and no frame follows: the tick shows it.
        world.bus.holding = True
        del typing[UserId("@lost:x")]
        world.set_typing(room_id, UserId("@lost:x"), 0)
        world.bus.drop_held()
        world.announcer.tick([TYPING], lambda _: 0)
        since, users = await _next(alice, since, room_id)
        assert users == ["@arrived:x"] and len(asked) == 2
        # The process dies. The leader fences its lease and announces that slots changed.
        async with world.database.connection() as conn:
            await fence(conn, world.announcer.lease)
        world.announcer.notice("slots")
        since, users = await _next(alice, since, room_id)
        assert users == []
        world.set_typing(room_id, UserId("@ghost:x"), _FOREVER_MS)
        assert _shown(await alice.sync(since), room_id) is None
        assert follower.covers(TYPING, follower.vector(TYPING))


def _row(world: World, room_id: RoomId, user_id: UserId, until_ms: int) -> TypingRow:
    position = world.announcer.next_ephemeral_position(TYPING)
    return TypingRow(
        position=position, writer=world.announcer.lease, room_id=room_id, user_id=user_id, until_ms=until_ms
    )
