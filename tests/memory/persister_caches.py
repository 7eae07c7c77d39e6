"""Fillers of the persister's and client_api's caches, see `test_accounted_sizes.py`."""

from typing import Any, cast

import orjson

from shared.config.sections import Quotas
from shared.core.canonical_json import compact
from shared.core.events import Event, event_from_storage
from shared.core.identifiers import EventId, UserId
from shared.core.room_versions import get_room_version
from shared.storage.events.auth_chains import ChainEvent
from tests.memory.measuring import Kind
from tests.memory.synchrotron_caches import BUDGET, CLOCK
from workers.client_api.encryption.send_allowances import SendAllowances
from workers.client_api.people.present_users import PresentUsers, _Kept
from workers.event_persister.graph.resolution_events import EventCache, _loaded
from workers.event_persister.room.drafts import Head, StateEntry
from workers.event_persister.room.live_room import RecentTransactions
from workers.event_persister.room.room_push import RoomPush
from workers.event_persister.room.room_state import RoomState
from workers.event_persister.room.thread_subscribers import ThreadSubscribers

_VERSION = get_room_version("10")


def _pdu(kind: Kind, number: int, type_: str, state_key: str, content: Any) -> bytes:
    pdu = {
        "type": type_,
        "state_key": state_key,
        "sender": kind.id("@", number % 10),
        "room_id": "!r:bees.example",
        "content": content,
        "origin_server_ts": 1_800_000_000_000 + number,
        "depth": number,
        "prev_events": [kind.id("$", number - 1)],
        "auth_events": [kind.id("$", each) for each in range(3)],
        "hashes": {"sha256": f"{number:043}"},
        "signatures": {"bees.example": {"ed25519:a": f"{number:086}"}},
    }
    return compact(orjson.dumps(pdu, option=orjson.OPT_SORT_KEYS))


def _event(kind: Kind, number: int, type_: str, state_key: str, content: Any) -> Event:
    event_id = EventId(kind.id("$", 1_000_000 + number))
    return event_from_storage(_VERSION, _pdu(kind, number, type_, state_key, content), event_id)


def _content(kind: Kind, number: int) -> Any:
    if kind.hostile:
        if number % 2:
            return {f"{each}": number for each in range(2000)}
        return {"lists": [[] for _ in range(3000)]}  # a list of three bytes is an object of 56
    return {"text": kind.text(number)}


def room_state() -> RoomState:
    create = _event(Kind("small", hostile=False, large_bytes=20), 1, "m.room.create", "", {"creator": "@a:x"})
    push = RoomPush(create.room_id, "bees.example")
    return RoomState(_VERSION, create, head=Head((), 0, 0), entries={}, events={}, push=push)


def fill_room_with_members(state: RoomState, kind: Kind) -> None:
    for number in range(1500):
        user_id = orjson.loads(orjson.dumps(kind.id("@", number)))
        entry = StateEntry(500_000 + number, EventId(kind.id("$", number)), "join")
        state._set_entry(("m.room.member", user_id), entry)


def fill_room_with_state_events(state: RoomState, kind: Kind) -> None:
    for number in range(60):
        state.keep(500_000 + number, _event(kind, number, "m.x", kind.id("k", number), _content(kind, number)))


def transactions() -> RecentTransactions:
    return RecentTransactions()


def fill_transactions(cache: RecentTransactions, kind: Kind) -> None:
    for number in range(1500):
        cache.note(f"{number:032}".encode(), EventId(kind.id("$", number)), 1_800_000_000_000 + number)


def thread_subscribers() -> ThreadSubscribers:
    return ThreadSubscribers()


def fill_thread_subscribers(cache: ThreadSubscribers, kind: Kind) -> None:
    for thread in range(10):
        thread_id = kind.id("$", thread)
        cache.begin_reading(thread_id)
        cache.end_reading(thread_id, [(UserId(kind.id("@", each)), 900_000 + each) for each in range(200)])


def event_cache() -> EventCache:
    return EventCache(BUDGET)


def fill_event_cache(cache: EventCache, kind: Kind) -> None:
    for number in range(80):
        json = _pdu(kind, number, "m.room.member", kind.id("@", number), _content(kind, number))
        row = ChainEvent(event_id=EventId(kind.id("$", number)), json=json, rejected=False, redacted=False)
        cache.put([_loaded(_VERSION, row, json)], cache.generation)


# -- client_api


class _Recorder:
    """The announcer and slot table of a process that owns everybody."""

    lease = 300
    _position = 900_000

    def set_values(self, *_: Any) -> None: ...
    def announce(self, *_: Any) -> None: ...
    def on_change(self, *_: Any) -> None: ...
    def owns(self, *_: Any) -> bool:
        return True

    def next_ephemeral_position(self, _: Any) -> int:
        self._position += 1
        return self._position


def present_users() -> PresentUsers:
    recorder = cast("Any", _Recorder())
    return PresentUsers(cast("Any", None), recorder, recorder, CLOCK)


def fill_present_users(cache: PresentUsers, kind: Kind) -> None:
    long = kind.hostile or kind.large_bytes > 1000
    for number in range(500):
        user_id = UserId(kind.id("@", number))
        profile = {"displayname": f"User {number}", "avatar_url": f"mxc://bees.example/{number:024}"}
        kept = cache._users[user_id] = _Kept(profile)
        for device in range(10 if long else 1):
            kept.presence.note_put(kind.id("D", device), "online", 1_800_000_000_000)
        kept.presence.status_msg = ("\N{HONEYBEE}" * 500 + f"{number}") if long else None
        cache._count(user_id, kept)
        cache.announce_changes([user_id])


def send_allowances() -> SendAllowances:
    return SendAllowances(Quotas(), CLOCK)


def fill_send_allowances(cache: SendAllowances, kind: Kind) -> None:
    for number in range(800):
        cache.spend(UserId(kind.id("@", number)), 1000 + number)
