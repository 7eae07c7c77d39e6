"""The push rules and ignore lists of users, as far as the rooms in memory need them.

They are read with a room, and with a user before they join it. Changes come from the stream `push_rules`. Positions
tell which is later: the rules of one user are written in order.
"""

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import orjson

from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import RuleSwitches, UserRules, user_rules
from shared.core.rows import PushRulesRow, ThreadSubscriptionRow
from shared.storage.engine.pool import Connection, Database
from shared.storage.events.stored_events import get_events
from shared.storage.push.rules_in_rooms import (
    PushRulesOfUser,
    get_event_threads,
    get_rules_of_all_in_room,
    get_rules_of_room,
    get_rules_of_users,
)
from shared.storage.user_data.thread_subscriptions import get_thread_subscribers
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_push import MEMBER, KnownRules, Lacking, RoomPush, display_name_in

#: Compiled rule sets. Many users have the same, and all rooms of a user share theirs.
_MAX_COMPILED = 5000


class PushRules:
    """switches: which experimental rules are on."""

    def __init__(self, database: Database, switches: RuleSwitches) -> None:
        self._database = database
        self._switches = switches
        self._compiled: OrderedDict[bytes, UserRules] = OrderedDict()
        self._rooms: weakref.WeakSet[RoomPush] = weakref.WeakSet()
        #: The latest copy of each room. Nothing is written into an older one any more.
        self._by_id: weakref.WeakValueDictionary[RoomId, RoomPush] = weakref.WeakValueDictionary()

    def apply(self, rows: Sequence[PushRulesRow]) -> None:
        """Take in rows of the stream."""
        for row in rows:
            known = KnownRules(self._rules(row.rules), row.ignored, row.position)
            # Each change looks at each room in memory. That is one look-up per room, and rules seldom change.
            for room in list(self._rooms):
                room.take_row(row.user_id, known)

    def follow(self, push: RoomPush) -> None:
        """Pass changes to a room as long as it is in memory."""
        push.use(self._switches)
        self._rooms.add(push)
        self._by_id[push.evaluator.room_id] = push

    def apply_subscriptions(self, rows: Sequence[ThreadSubscriptionRow]) -> None:
        """Take in rows of the stream `thread_subscriptions`."""
        for row in rows:
            push = self._by_id.get(row.room_id)
            if push is not None and push.subscribers is not None:
                push.subscribers.take(row.thread_id, row.user_id, row.position, subscribed=row.subscribed)

    async def read_room(self, snapshot: Connection, room_nid: int, room_id: RoomId) -> dict[UserId, KnownRules]:
        """Return the rules of a room's members, of those whose rules may differ from the default ones there.

        With legacy mentions, these are all members, since the default rules are about their names.
        """
        if self._switches.legacy_mentions:
            rows = await get_rules_of_all_in_room(snapshot, room_nid)
        else:
            rows = await get_rules_of_room(snapshot, room_nid, room_id)
        return {row.user_id: self._known(row) for row in rows}

    async def load(self, room: LiveRoom, lacking: Lacking) -> None:
        """Read what a room lacks before events can be built."""
        push = room.state.push
        if lacking.users:
            read = {user_id: self._known(PushRulesOfUser(user_id)) for user_id in lacking.users}
            push.begin_reading()
            try:
                for row in await get_rules_of_users(self._database, lacking.users):
                    read[row.user_id] = self._known(row)
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

    def _known(self, row: PushRulesOfUser) -> KnownRules:
        return KnownRules(self._rules(row.rules), row.ignored, row.position)

    def _rules(self, json: bytes) -> UserRules:
        rules = self._compiled.get(json)
        if rules is None:
            rules = self._compiled[json] = user_rules(json, self._switches)
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(json)
        return rules
