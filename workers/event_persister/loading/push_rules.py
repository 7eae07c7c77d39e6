"""The push rules and ignore lists of users, as far as the rooms in memory need them.

They are read with a room, and with a user before they join it. Changes come from the stream `push_rules`. Positions
tell which is later: the rules of one user are written in order.
"""

import asyncio
import logging
import weakref
from collections.abc import Collection, Iterable, Sequence

import orjson

from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import RuleSwitches
from shared.core.rows import PushRulesRow, ThreadSubscriptionRow
from shared.metrics.persister import PersisterMetrics
from shared.storage.engine.pool import Connection, Database, Source
from shared.storage.events.stored_events import get_events
from shared.storage.push.rules_in_rooms import (
    PushRulesOfUser,
    get_event_threads,
    get_rules_of_all_in_room,
    get_rules_of_room,
    get_rules_of_users,
)
from shared.storage.user_data.thread_subscriptions import get_thread_subscribers
from workers.event_persister.room.known_rules import KnownRules, KnownUsers
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_push import MEMBER, Lacking, RoomPush, display_name_in

logger = logging.getLogger(__name__)

#: Rules compiled, in bytes of JSON, before others may run: a few milliseconds.
_BYTES_AT_ONCE = 32_768
_USER_BYTES = 200  # counted for each user besides: applying short rules takes time too
_LARGE_AT_ONCE = 16  # users whose large rules or ignore lists are read at once
_MAX_WARNED = 1_000


class PushRules:
    """switches: which experimental rules are on."""

    def __init__(self, database: Database, switches: RuleSwitches, metrics: PersisterMetrics) -> None:
        self._database = database
        self._switches = switches
        self._metrics = metrics
        self._users = KnownUsers(switches)
        self._rooms: weakref.WeakSet[RoomPush] = weakref.WeakSet()
        #: The latest copy of each room. Nothing is written into an older one any more.
        self._by_id: weakref.WeakValueDictionary[RoomId, RoomPush] = weakref.WeakValueDictionary()
        #: Users whose rules took too many steps. Each is logged once.
        self._warned: set[UserId] = set()

    @property
    def size_bytes(self) -> int:
        """About how much memory the rules and ignore lists take. Rooms share them."""
        return self._users.size_bytes

    def apply(self, rows: Sequence[PushRulesRow]) -> None:
        """Take in rows of the stream. Rooms apply them with their next event."""
        for row in rows:
            # Each change looks at each room in memory. That is one look-up per room, and rules seldom change.
            rooms = [room for room in list(self._rooms) if room.needs(row.user_id)]
            if rooms:
                known = self._users.take(row.user_id, row.rules, row.ignored, row.position)
                for room in rooms:
                    room.take_row(row.user_id, known)
            self._warned.discard(row.user_id)

    def follow(self, push: RoomPush) -> None:
        """Pass changes to a room as long as it is in memory."""
        push.use(self._switches, self._users.ignored_users, self._exceeded)
        self._rooms.add(push)
        self._by_id[push.evaluator.room_id] = push

    def _exceeded(self, room_id: RoomId, users: Sequence[UserId]) -> None:
        self._metrics.push_rules_exceeded.inc(len(users))
        new = [user_id for user_id in users if user_id not in self._warned]
        if new and len(self._warned) < _MAX_WARNED:
            self._warned.update(new)
            logger.warning(
                "The push rules of %s take too much work with an event in %s; some of them did not match it",
                ", ".join(new),
                room_id,
            )

    def apply_subscriptions(self, rows: Sequence[ThreadSubscriptionRow]) -> None:
        """Take in rows of the stream `thread_subscriptions`."""
        for row in rows:
            push = self._by_id.get(row.room_id)
            if push is not None and push.subscribers is not None:
                push.subscribers.take(row.thread_id, row.user_id, row.position, subscribed=row.subscribed)

    async def read_room(self, snapshot: Connection, room_nid: int, push: RoomPush) -> dict[UserId, KnownRules]:
        """Return the rules of a room's members, of those whose rules may differ from the default ones there.

        With legacy mentions, these are all members, since the default rules are about their names.
        """
        if self._switches.legacy_mentions:
            rows = await get_rules_of_all_in_room(snapshot, room_nid)
        else:
            rows = await get_rules_of_room(snapshot, room_nid, push.evaluator.room_id)
        return await self._known(snapshot, rows)

    async def fill(self, push: RoomPush, read: dict[UserId, KnownRules]) -> None:
        """Give a room the rules that were read for it, and let others run between many."""
        pause = _Pause()
        while read:
            user_id, known = read.popitem()
            push.take_read({user_id: known})
            await pause.after(0)
        push.end_reading({})

    async def load(self, room: LiveRoom, lacking: Lacking) -> None:
        """Read what a room lacks before events can be built."""
        push = room.state.push
        if lacking.changed:
            pause = _Pause()
            for known in list(lacking.changed):
                if not known.is_ready:
                    await pause.after(known.compile())
            await asyncio.sleep(0)  # the room applies some at a time
        if lacking.users:
            push.begin_reading()
            try:
                rows = await get_rules_of_users(self._database, lacking.users)
                read = dict.fromkeys(lacking.users, self._users.nothing) | await self._known(self._database, rows)
            except BaseException:
                push.end_reading({})
                raise
            push.end_reading(read)
        if lacking.events:
            threads = await get_event_threads(self._database, room.room_nid, lacking.events)
            push.take_threads(lacking.events, threads)
        for thread_id in lacking.threads:
            assert push.subscribers is not None
            push.subscribers.begin_reading(thread_id)
            found = await get_thread_subscribers(self._database, room.room_nid, thread_id)
            push.subscribers.end_reading(thread_id, found)
        if lacking.names:
            await self._load_names(room, list(lacking.names))

    async def _load_names(self, room: LiveRoom, user_ids: Iterable[UserId]) -> None:
        """Read the display names of members. If a member event comes meanwhile, its name stays lacking."""
        entries = {user_id: room.state.entry(MEMBER, user_id) for user_id in user_ids}
        nids = [entry.event_nid for entry in entries.values() if entry is not None]
        contents = {nid: event.content for nid in nids if (event := room.state.event_in_memory(nid)) is not None}
        wanted = [nid for nid in nids if nid not in contents]
        for stored in await get_events(self._database, room.room_nid, wanted) if wanted else ():
            contents[stored.event_nid] = {} if stored.redacted_by else orjson.loads(stored.json)["content"]
        for user_id, entry in entries.items():
            if entry == room.state.entry(MEMBER, user_id):
                room.state.push.take_name(
                    user_id, "" if entry is None else display_name_in(contents.get(entry.event_nid, {}))
                )

    async def _known(self, source: Source, rows: Collection[PushRulesOfUser]) -> dict[UserId, KnownRules]:
        """Return the rules of these rows, compiled. Large ones that other rooms need are not read again."""
        found: dict[UserId, KnownRules] = {}
        large: list[UserId] = []
        pause = _Pause()
        for row in rows:
            known = self._users.get(row.user_id)
            if known is not None and known.position >= row.position:
                found[row.user_id] = known
            elif row.is_large:
                large.append(row.user_id)
            else:
                known = found[row.user_id] = self._users.take(row.user_id, row.rules, row.ignored, row.position)
                await pause.after(known.compile())
        for start in range(0, len(large), _LARGE_AT_ONCE):
            for row in await get_rules_of_users(source, large[start : start + _LARGE_AT_ONCE]):
                known = found[row.user_id] = self._users.take(row.user_id, row.rules, row.ignored, row.position)
                await pause.after(known.compile() + _USER_BYTES * len(row.ignored))
        return found


class _Pause:
    """Lets others run between the rules of many users."""

    def __init__(self) -> None:
        self._bytes = 0

    async def after(self, rules_bytes: int) -> None:
        """Note the work of one user, which is done. rules_bytes: the JSON that was compiled."""
        self._bytes += rules_bytes + _USER_BYTES
        if self._bytes > _BYTES_AT_ONCE:
            self._bytes = 0
            await asyncio.sleep(0)
