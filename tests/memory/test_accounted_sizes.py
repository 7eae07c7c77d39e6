"""The accounted size of each cache, against the memory that Python allocated.

`FILLED` is the list of the caches. `tests/architecture/test_containers.py` makes sure that none is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.memory import persister_caches as persister
from tests.memory import shared_caches as shared
from tests.memory import synchrotron_caches as synchrotron
from tests.memory.measuring import FACTOR, KINDS, Kind, sizes_of
from workers.event_persister.room.live_room import TRANSACTION_BYTES


@dataclass(frozen=True, slots=True)
class Filled:
    """A cache, and how to fill it.

    make: returns an empty one.
    fill: fills it with contents of a kind, and returns what others keep in memory anyway.
    accounted: returns the size that it states.
    """

    make: Callable[[], Any]
    fill: Callable[[Any, Kind], Any]
    accounted: Callable[[Any], int] = lambda cache: cache.size_bytes


FILLED = {
    "access tokens": Filled(shared.authenticator, shared.fill_tokens, lambda cache: cache._cache.size_bytes),
    "last uses of devices": Filled(shared.authenticator, shared.fill_last_seen, lambda cache: cache._last_seen_bytes),
    "rate limit buckets": Filled(shared.rate_limiter, shared.fill_buckets, lambda cache: cache._buckets.size_bytes),
    "rate limit shares": Filled(shared.rate_limiter, shared.fill_shares, lambda cache: cache._shares.size_bytes),
    "state of a room, members": Filled(persister.room_state, persister.fill_room_with_members),
    "state of a room, events": Filled(persister.room_state, persister.fill_room_with_state_events),
    "transactions of a room": Filled(
        persister.transactions, persister.fill_transactions, lambda cache: TRANSACTION_BYTES * len(cache)
    ),
    "subscribers of threads": Filled(persister.thread_subscribers, persister.fill_thread_subscribers),
    "events of resolutions": Filled(
        persister.event_cache, persister.fill_event_cache, lambda cache: cache._cache.size_bytes
    ),
    "bytes sent to devices": Filled(
        persister.send_allowances, persister.fill_send_allowances, lambda cache: cache._left.size_bytes
    ),
    "present users": Filled(
        persister.present_users, persister.fill_present_users, lambda cache: cache.size_bytes + cache.unsaved_bytes
    ),
    "filters": Filled(synchrotron.filters, synchrotron.fill_filters, lambda cache: cache._parsed.size_bytes),
    "sync tokens": Filled(
        synchrotron.sync_tokens, synchrotron.fill_sync_tokens, lambda cache: cache._parsed.size_bytes
    ),
    "room": Filled(synchrotron.room, synchrotron.fill_room),
    "room with receipts": Filled(synchrotron.room, synchrotron.fill_room_with_receipts),
    "room with threads": Filled(synchrotron.room, synchrotron.fill_room_with_threads),
    "event memory": Filled(synchrotron.event_memory, synchrotron.fill_event_memory, lambda cache: cache._bytes),
    "room traits": Filled(synchrotron.traits, synchrotron.fill_traits),
    "typing rooms": Filled(synchrotron.typing_rooms, synchrotron.fill_typing),
    "users": Filled(synchrotron.users, synchrotron.fill_users),
    "lazy members": Filled(synchrotron.lazy_members, synchrotron.fill_lazy_members, lambda cache: cache._bytes),
    "sliding connections": Filled(
        synchrotron.connections, synchrotron.fill_connections, lambda cache: cache._connections.size_bytes
    ),
    "presence memory": Filled(synchrotron.presence_memory, synchrotron.fill_presence_memory),
    "pending presence": Filled(
        synchrotron.presence_feed, synchrotron.fill_presence_feed, lambda cache: cache._pending_bytes
    ),
    "presence reports": Filled(synchrotron.presence_reports, synchrotron.fill_presence_reports),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", FILLED)
def test_accounted_size_is_near_the_measured_one(name: str, kind: Kind) -> None:
    filled = FILLED[name]
    sizes = sizes_of(filled.make, lambda cache: filled.fill(cache, kind), filled.accounted)
    print(f"{name:22} {kind.name:8} {sizes.ratio:6.2f} {sizes}")
    assert 1 / FACTOR <= sizes.ratio <= FACTOR, sizes
