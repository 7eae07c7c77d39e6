"""The bounds of caches and queues by bytes: reached by few large entries as by many small ones."""

import asyncio
from contextlib import ExitStack
from typing import Any, cast

import pytest

from replication.bus import redis_transport
from replication.bus.redis_transport import RedisTransport
from replication.slots.forwarder import SlotForwarder
from shared.cache.byte_budget import OWNED_ENTRY_BYTES, SharedBudgetCache
from shared.cache.sizes import deep_size, json_size
from shared.core.errors import Unavailable
from shared.core.filters import parse_filter
from shared.core.identifiers import UserId
from shared.rooms.timeline_event import TimelineEvent
from tests.memory import synchrotron_caches as synchrotron
from tests.memory.measuring import LARGE, SMALL, received
from workers.event_persister.commit.committer import Committer
from workers.event_persister.room.live_room import Write
from workers.synchrotron.classic.sync_request import Filters
from workers.synchrotron.rooms.cached_room import CachedRoom

_NONE = cast("Any", None)


# -- shares of users


def test_user_beyond_their_share_loses_only_their_own_entries() -> None:
    cache: SharedBudgetCache[str, int] = SharedBudgetCache(1000, 400)
    cache.put("theirs", 0, 100, "@b:x")
    for number in range(20):
        cache.put(f"mine {number}", number, 100, "@a:x")
    assert cache.bytes_of("@a:x") == 400 and cache.get("theirs") == 0
    assert cache.get("mine 19") == 19 and cache.get("mine 15") is None
    cache.put("too large", 0, 401, "@a:x")
    assert cache.get("too large") is None and cache.bytes_of("@a:x") == 400
    cache.put("mine 19", 7, 300, "@a:x")  # in place of the entry before it
    assert cache.get("mine 19") == 7 and cache.bytes_of("@a:x") <= 400


def test_least_recently_used_entries_of_all_users_go_first() -> None:
    cache: SharedBudgetCache[int, int] = SharedBudgetCache(1000, 400)
    for number in range(10):
        cache.put(number, number, 100, f"@{number}:x")
    assert cache.get(0) == 0
    cache.put(10, 10, 100, "@10:x")
    assert cache.get(0) == 0 and cache.get(1) is None and cache.size_bytes == 1000
    for number in list(range(11)):
        cache.pop(number)
    assert (cache.size_bytes, len(cache), cache._owned, cache._owned_bytes) == (0, 0, {}, {})


def test_parsed_filters_of_a_user_take_their_share_and_no_more() -> None:
    filters = Filters(_NONE, 1 << 20)
    one = parse_filter({"room": {"timeline": {"senders": [f"@user{number}:example.org" for number in range(300)]}}})
    filters._keep(("@b:x", 1), one, UserId("@b:x"))
    size = filters._parsed.size_bytes
    for number in range(500):
        filters._keep(("@a:x", number), one, UserId("@a:x"))
    assert filters._parsed.bytes_of("@a:x") <= (1 << 20) // 8
    assert filters._parsed.get(("@b:x", 1)) is one and size > OWNED_ENTRY_BYTES + deep_size(one)


# -- rooms


def _recounted(room: CachedRoom) -> int:
    """Return what the events of a room take, each counted once, as they are now."""
    entries = [*room.changes, *room.state.values(), *(entry.previous for entry in room.changes)]
    events: dict[int, TimelineEvent] = {id(event): event for event in room.events}
    events |= {id(entry.event): entry.event for entry in entries if entry is not None and entry.event is not None}
    return sum(event.size_bytes for event in events.values())


@pytest.mark.parametrize("kind", [SMALL, LARGE], ids=lambda kind: kind.name)
def test_size_of_a_room_does_not_drift(kind: Any) -> None:
    """Contents of replaced events and redactions come after an event was counted, and leave with it."""
    room = synchrotron.room()
    empty = room.size_bytes
    topic = None
    for ordinal in range(1, 700):
        content = {"topic": kind.text(ordinal)}
        changes: dict[str, Any] = {"type": "m.room.topic", "state_key": f"{ordinal % 3}", "content": content}
        redacts = None
        if ordinal % 7 == 0:
            redacts = 500_000 + ordinal - 3
            changes = {"type": "m.room.redaction", "content": {"reason": kind.text(ordinal)}, "redacts_nid": redacts}
        else:
            key = ("m.room.topic", f"{ordinal % 3}")
            topic = room.state.get(key)
            changes["replaces_nid"] = topic.event.event_nid if topic is not None and topic.event is not None else None
        row = synchrotron.event_row(kind, ordinal, push=(), **changes)
        room.apply(received(row), accepted=True, redacts_nid=redacts)
        events = _recounted(room)
        assert events <= room.size_bytes - empty <= events + 1_000 * (2 * len(room.events) + len(room.changes) + 3)


# -- queues


async def test_requests_that_wait_for_an_owner_are_bounded_by_their_bodies() -> None:
    forwarder = SlotForwarder(_NONE, _NONE, _NONE, {})
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(forwarder._room_for(bytes(1 << 20)))
        with pytest.raises(Unavailable):
            for _ in range(10):
                stack.enter_context(forwarder._room_for(bytes(1 << 20)))
        stack.enter_context(forwarder._room_for(b""))
    assert forwarder._waiting_bytes == 0
    with ExitStack() as stack, pytest.raises(Unavailable):
        for _ in range(10_000):
            stack.enter_context(forwarder._room_for(b""))


class _Event:
    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded


class _Built:
    def __init__(self, encoded: bytes) -> None:
        self.event = _Event(encoded)


class _Metrics:
    class _Gauge:
        def set(self, _: float) -> None: ...

    waiting = apart = _Gauge()


@pytest.mark.parametrize(
    ("encoded", "most"), [(b"{}", 30_000), (b'"' + b"x" * 60_000 + b'"', 1500), (b"[" + b"[]," * 20_000 + b"1]", 150)]
)
async def test_events_that_wait_for_the_database_are_bounded_by_bytes(encoded: bytes, most: int) -> None:
    committer = Committer(
        write=_NONE,
        lease=1,
        announce=_NONE,
        lost_room=_NONE,
        clock=_NONE,
        tasks=_NONE,
        metrics=cast("Any", _Metrics()),
        server_name="x",
        database=_NONE,
    )
    committer._running = cast("Any", asyncio.get_running_loop().create_future())  # a statement that does not end
    room = cast("Any", None)
    taken = 0
    with pytest.raises(Unavailable):
        while taken <= most:
            committer.check_room_for_more()
            built = [cast("Any", _Built(encoded))]
            committer.submit(Write(room=room, drafts=(), event_nids=(), done=_NONE, built=built))
            taken += 1
    assert most / 3 < taken <= most
    while committer._queue:
        committer._take_batch()
    assert committer._waiting_bytes == 0
    committer.check_room_for_more()


def test_unanswered_messages_to_redis_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_transport, "_MAX_UNANSWERED_BYTES", 1 << 20)
    sent: list[Any] = []

    class Deferred:
        def addBoth(self, callback: Any, *arguments: Any) -> None:
            sent.append(lambda: callback(None, *arguments))

    class Connection:
        def execute_command(self, *_: Any) -> Deferred:
            return Deferred()

    transport = object.__new__(RedisTransport)
    transport._prefix, transport._unanswered_bytes = "p:", 0
    transport._publisher = cast("Any", type("Publisher", (), {"current": Connection()})())
    for _ in range(100):
        transport.publish("events", bytes(100_000))
    assert 8 <= len(sent) <= 11
    for answered in sent:
        answered()
    assert transport._unanswered_bytes == 0


def test_json_is_counted_as_it_is_decoded() -> None:
    assert json_size(b"[" + b"[]," * 1000 + b"1]") > 60_000
    assert json_size(b'"' + b"x" * 5000 + b'"') < 6000
