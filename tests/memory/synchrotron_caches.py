"""Fillers of the synchrotron's caches, see `test_accounted_sizes.py`."""

from typing import Any, cast

import orjson
from prometheus_client import CollectorRegistry

from shared.core.filters import parse_filter
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules import ALL_OFF
from shared.core.room_versions import get_room_version
from shared.core.rows import AccountDataRow, EventRow, PresenceRow, PushRulesRow, ReceiptRow, TypingRow
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import UnreadRoom
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.event_memory import EventMemory
from shared.storage.encryption.device_keys import KeyCounts
from shared.storage.events.sticky import StickyEvent
from shared.storage.events.timeline import TimelineRow
from shared.storage.rooms.list_traits import RoomTraits
from shared.storage.user_data.receipts import ReceiptRecord
from tests.memory.measuring import Kind, received
from workers.synchrotron.classic.sync_request import Filters
from workers.synchrotron.presence.feed import PresenceFeed
from workers.synchrotron.presence.memory import PresenceMemory
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.sticky_rooms import StickyRooms
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sliding.connection_state import ConnectionState, SentRoom
from workers.synchrotron.sliding.connections import Connection, Connections
from workers.synchrotron.sliding.ranking import Ranking
from workers.synchrotron.sliding.request import ListRequest, RoomConfig, RoomFilter
from workers.synchrotron.sliding.required_state import RequiredState, StateRequest
from workers.synchrotron.sliding.room_lists import ConnectionLists, RoomList
from workers.synchrotron.sliding.room_traits import RoomTraitsCache
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.sync_tokens import SyncTokens

BUDGET = 1 << 30
_VERSION = get_room_version("12")
_LETTERS = {"events": "e", "receipts": "r", "account_data": "a", "push_rules": "p", "typing": "t", "presence": "n"}
_NONE = cast("Any", None)


class _Clock:
    def now_ms(self) -> int:
        return 1_800_000_000_000

    def monotonic_s(self) -> float:
        return 1000.0


CLOCK = cast("Any", _Clock())


def event_row(kind: Kind, number: int, **changes: Any) -> EventRow:
    """Return an event row as replication brings it."""
    fields: dict[str, Any] = {
        "position": 100_000 + number,
        "writer": 300 + number % 3,
        "room_nid": 7_000,
        "room_id": kind.id("!", 7),
        "room_version": "12",
        "event_nid": 500_000 + number,
        "event_id": kind.id("$", number),
        "ordinal": number,
        "type": "m.room.message",
        "state_key": None,
        "sender": kind.id("@", number % 10),
        "origin_server_ts": 1_800_000_000_000 + number,
        "status": 0,
        "replaces_nid": None,
        "redacted_by": None,
        "txn_device": "ABCDEFGHIJ",
        "txn_id": f"m{number}.0",
        "push": ((0, number, 0),),
    }
    content = changes.pop("content", {"msgtype": "m.text", "body": kind.text(number)})
    fields |= changes
    pdu = {
        "type": fields["type"],
        "sender": fields["sender"],
        "content": content,
        "origin_server_ts": fields["origin_server_ts"],
        "room_id": fields["room_id"],
        "depth": number,
        "prev_events": [kind.id("$", number - 1)],
        "auth_events": [],
        "hashes": {"sha256": "x" * 43},
        "signatures": {"bees.example": {"ed25519:a": "x" * 86}},
    }
    if fields["state_key"] is not None:
        pdu["state_key"] = fields["state_key"]
    return EventRow(json=orjson.dumps(pdu), **fields)


# -- filters and tokens


def filters() -> Filters:
    return Filters(_NONE, BUDGET)


def fill_filters(cache: Filters, kind: Kind) -> None:
    for number in range(40):
        wanted: dict[str, Any] = {"room": {"timeline": {"limit": 20, "types": [f"m.{number}", "m.room.*"]}}}
        if kind.hostile:
            stars = ["*" * 250 + f"{number}.{each}" for each in range(60)]
            senders = [kind.id("@", each) for each in range(60)]
            section = {"types": stars, "not_types": stars, "not_senders": senders}
            wanted = {"presence": section, "account_data": section, "room": {"timeline": section, "state": section}}
        elif kind.large_bytes > 1000:
            rooms = [kind.id("!", each) for each in range(500)]
            wanted["room"]["rooms"] = wanted["room"]["not_rooms"] = rooms
        user = UserId(kind.id("@", number))
        cache._keep((user, number), parse_filter(orjson.loads(orjson.dumps(wanted))), user)
        if not kind.hostile:
            text = orjson.dumps(wanted).decode()
            cache._keep(text, parse_filter(orjson.loads(text)), user)


def sync_tokens() -> SyncTokens:
    return SyncTokens(_NONE, _NONE, CLOCK)


def fill_sync_tokens(cache: SyncTokens, kind: Kind) -> None:
    for number in range(60):
        first, named = (1, 1000) if kind.hostile else (300, 60 if kind.large_bytes > 1000 else 2)
        vectors = {
            name: Vector(1000, 900_000 + number, {first + each: 2_000_000 + each for each in range(named)})
            for name in _LETTERS
        }
        if kind.hostile:
            vectors = {name: vector if name == "events" else Vector() for name, vector in vectors.items()}
        text = format_token(StreamToken(vectors), _LETTERS)
        cache._remember(text, parse_token(text, _LETTERS), reached=False)


# -- rooms


def room() -> CachedRoom:
    return CachedRoom(RoomId("!r:x"), 7000, "12", last_ordinal=0, max_events=100)


def fill_room(room: CachedRoom, kind: Kind) -> None:
    """Messages, member events, a topic that is set again and again, redactions, threads and receipts."""
    last_topic: int | None = None
    for ordinal in range(1, 131):
        number = ordinal - 1
        row = event_row(kind, ordinal)
        redacts = None
        if number % 4 == 1:
            user = kind.id("@", ordinal)
            content = {"membership": "join", "displayname": kind.text(ordinal)}
            row = event_row(kind, ordinal, type="m.room.member", state_key=user, content=content)
        elif number % 4 == 2:
            content = {"topic": kind.text(ordinal)}
            row = event_row(kind, ordinal, type="m.room.topic", state_key="", content=content, replaces_nid=last_topic)
            last_topic = row.event_nid
        elif number % 8 == 3:
            root = kind.id("$", ordinal - 1)
            reply: dict[str, Any] = {"body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
            row = event_row(kind, ordinal, content=reply, thread_id=root)
        elif number % 8 == 7:
            redacts = 500_000 + ordinal - 3
            content = {"reason": kind.text(ordinal)}
            row = event_row(kind, ordinal, type="m.room.redaction", content=content, redacts_nid=redacts)
        room.apply(received(row), accepted=True, redacts_nid=redacts)
        room.apply_receipt(receipt(kind, number))


def receipt(kind: Kind, number: int) -> ReceiptRecord:
    row = received_receipt(kind, number)
    return ReceiptRecord(row.user_id, row.kind, row.thread_id, row.event_id, row.ts_ms, row.writer, row.position)


def received_receipt(kind: Kind, number: int) -> ReceiptRow:
    return received(
        ReceiptRow(
            position=800_000 + number,
            writer=301,
            room_nid=7000,
            room_id=RoomId(kind.id("!", 7)),
            user_id=UserId(kind.id("@", number)),
            kind="m.read",
            thread_id=kind.id("$", number) if number % 2 else "",
            event_id=EventId(kind.id("$", number)),
            ordinal=400 + number,
            ts_ms=1_800_000_000_000 + number,
        )
    )


def fill_room_with_receipts(room: CachedRoom, kind: Kind) -> None:
    for number in range(600):
        room.apply_receipt(receipt(kind, number))


def fill_room_with_threads(room: CachedRoom, kind: Kind) -> None:
    """Totals of many groups in many threads, of which only the latest events stay."""
    for number in range(1, 700):
        counts = tuple((group, 2, 1) for group in range(3))
        row = event_row(kind, number, thread_id=kind.id("$", number % 100), push=counts)
        room.apply(received(row), accepted=True, redacts_nid=None)


def event_memory() -> EventMemory:
    return EventMemory(BUDGET)


def fill_event_memory(cache: EventMemory, kind: Kind) -> None:
    for number in range(1, 200):
        row = received(event_row(kind, number))
        absent: dict[str, Any] = dict.fromkeys(TimelineRow._fields) | {
            "previous_redacted": False,
            "redaction_redacted": False,
            "back": 0,
        }
        columns = absent | {name: getattr(row, name) for name in TimelineRow._fields if hasattr(row, name)}
        cache.event(_VERSION, TimelineRow(**columns))


def traits() -> RoomTraitsCache:
    return RoomTraitsCache(_NONE, BUDGET)


def fill_traits(cache: RoomTraitsCache, kind: Kind) -> None:
    for number in range(700):
        sender = UserId(kind.id("@", number))
        one = RoomTraits(10_000 + number, 300, 2_000_000 + number)
        one.set_state("m.room.name", sender, orjson.loads(orjson.dumps({"name": kind.text(number)})))
        if kind.hostile:
            one.set_state("m.room.create", sender, {"type": kind.id("t", number)})
            one.set_state("m.room.name", sender, {"name": kind.id("n", number) * 30})
        cache._keep(RoomId(kind.id("!", number)), one)


def typing_rooms() -> TypingRooms:
    return TypingRooms()


def fill_typing(cache: TypingRooms, kind: Kind) -> None:
    for number in range(700):
        room_id = RoomId(kind.id("!", number if kind.large_bytes < 1000 else number % 3))
        row = TypingRow(
            position=900_000 + number, writer=300, room_id=room_id, user_id=UserId(kind.id("@", number)), until_ms=2000
        )
        cache.apply(received(row), 1000, number + 1000)


def sticky_rooms() -> StickyRooms:
    return StickyRooms(enabled=True)


def fill_sticky(cache: StickyRooms, kind: Kind) -> None:
    events = (
        (
            RoomId(kind.id("!", number if kind.hostile else number // 10)),
            StickyEvent(500_000 + number, 1000 + number, 300, 900_000 + number, 1_900_000_000_000 + number),
        )
        for number in range(700)
    )
    cache.load(events, 1_800_000_000_000)


# -- users


def users() -> UserCache:
    return UserCache(_NONE, _NONE, BUDGET, SyncMetrics(CollectorRegistry()), ALL_OFF)


def fill_users(cache: UserCache, kind: Kind) -> None:
    """Users with rooms, account data, ignored users, devices, people to track, tokens and unread counts."""
    many = 40 if kind.hostile or kind.large_bytes > 1000 else 6
    for number in range(30):
        user_id = UserId(kind.id("@", number))
        user = cache._users[user_id] = SyncUser(user_id)
        for each in range(many):
            row = received(event_row(kind, each, room_id=kind.id("!", number * many + each)))
            cache._apply_membership(user, row, "join", row.event_nid, row.sender)
            user.note_change(row.room_id, each + 1000)
        for each in range(many):
            data = AccountDataRow(
                position=900_000 + each,
                writer=300,
                user_id=user_id,
                room_id=RoomId(kind.id("!", number * many + each) if each % 2 else ""),
                type=kind.id("t", each),
                json=orjson.dumps({"x": kind.text(each)}),
            )
            cache.apply_account_data(received(data))
        ignored = tuple(UserId(kind.id("@", 1000 + each)) for each in range(many * 5))
        rules = PushRulesRow(position=5, writer=300, user_id=user_id, rules=kind.text(1).encode(), ignored=ignored)
        cache.apply_push_rules(received(rules))
        for each in range(many):
            user.devices.note_changed(UserId(kind.id("@", 5000 + each)), 4000 + each)
            device = user.devices.device(kind.id("D", each))
            algorithms = {kind.id("a", one): 300 + one for one in range(8 if kind.hostile else 1)}
            user.devices.set_keys(device, KeyCounts(algorithms, [], 300, 900_000))
        for each in range(32):
            user.note_token(f"s1_e{each}.{number}.300-{900_000 + each}" + "_r1000.90000.301-900001" * 5, 5000 + each)
        for each in range(many):
            unread = UnreadRoom(user_id)
            user.unread[RoomId(kind.id("!", number * many + each))] = unread
            for thread in range(6 if kind.hostile else 1):
                unread.note_receipt(kind.id("$", thread), 400 + thread)
            user.account(unread.size_bytes)
        cache._count(user)


def lazy_members() -> LazyMembers:
    return LazyMembers(BUDGET)


def fill_lazy_members(cache: LazyMembers, kind: Kind) -> None:
    members = 300 if kind.large_bytes > 1000 or kind.hostile else 5
    for number in range(60):
        user = UserId(kind.id("@", number))
        response = cache.begin(user, "ABCDEFGHIJ", None)
        for each in range(members):
            response.note(
                RoomId(kind.id("!", each)), UserId(kind.id("@", each)), EventId(kind.id("$", number * 1000 + each))
            )
        cache.complete(response, f"s1_e{number}.1000000")
        cache.begin(user, "ABCDEFGHIJ", f"s1_e{number}.1000000")


def connections() -> Connections:
    return Connections(_NONE, BUDGET, CLOCK)


def fill_connections(cache: Connections, kind: Kind) -> list[RoomId]:
    """Connections with two states, several lists, and the counts of several responses."""
    rooms = 400 if kind.large_bytes > 1000 else 40 if kind.hostile else 15
    room_ids = [RoomId(kind.id("!", each)) for each in range(rooms)]
    for number in range(30):
        connection = Connection(UserId(kind.id("@", number)), "ABCDEFGHIJ", f"room-list-{number}")
        for version in range(2):
            elements = frozenset((kind.id("t", each), kind.id("k", each)) for each in range(40 if kind.hostile else 4))
            required = RequiredState((StateRequest(elements),))
            sent = {room_id: SentRoom(10_000 + each, 20, 1000 + each, 0, 7) for each, room_id in enumerate(room_ids)}
            connection.states[1_800_000_000_000 + version] = ConnectionState(
                sent, (required,), (Vector(1000, 2_000_000 + version),), {}
            )
        filters = [
            RoomFilter(tags=frozenset(kind.id("t", each) for each in range(40))) if kind.hostile else RoomFilter()
            for _ in range(5 if kind.hostile else 1)
        ]
        for response in range(8):
            lists = {
                f"list-{each}-{response if kind.hostile else 0}": ListRequest(
                    RoomConfig(20, RequiredState((StateRequest(frozenset({(kind.id("t", response), None)})),))),
                    RoomFilter(tags=frozenset(kind.id("t", one) for one in range(40))) if kind.hostile else one,
                    ((0, 19 + each),),
                )
                for each, one in enumerate(filters)
            }
            if not kind.hostile:
                lists = {"all": ListRequest(RoomConfig(20, RequiredState()), RoomFilter(), ((0, 19),))}
            connection.note_counts(f"{response}_s1_e{number}.{response}", lists, dict.fromkeys(lists, 1000 + response))
        ranked = [(2_000_000 + each, room_id) for each, room_id in enumerate(room_ids)]
        connection._lists = ConnectionLists(
            {one: RoomList(Ranking(ranked), 1000 + number, (None, None, None)) for one in filters[:1]},
            {(room_id, 1000 + each): True for each, room_id in enumerate(room_ids[: rooms // 4])},
        )
        state = connection.states[1_800_000_000_001]
        connection.settle(state, (dict(lists), []), {room_id: tuple(lists) for room_id in room_ids})
        cache.remember(connection)
    return room_ids


# -- presence


def presence_row(kind: Kind, number: int) -> PresenceRow:
    long = kind.hostile or kind.large_bytes > 1000
    return received(
        PresenceRow(
            position=900_000 + number,
            writer=300,
            user_id=UserId(kind.id("@", number)),
            state="online",
            last_active_ms=1_800_000_000_000 + number,
            currently_active=True,
            status_msg="\N{HONEYBEE}" * 512 if long else None,
            displayname=f"User {number}",
            avatar_url=f"mxc://bees.example/{number:024}",
        )
    )


def presence_memory() -> PresenceMemory:
    return PresenceMemory()


def fill_presence_memory(cache: PresenceMemory, kind: Kind) -> None:
    rooms = [RoomId(f"!{number}") for number in range(20 if kind.hostile else 3)]
    for number in range(600):
        cache.change(presence_row(kind, number), number + 1000, rooms)


def presence_feed() -> PresenceFeed:
    return PresenceFeed(PresenceMemory(), _NONE, _NONE, _NONE, CLOCK)


def fill_presence_feed(cache: PresenceFeed, kind: Kind) -> None:
    cache.apply([presence_row(kind, number) for number in range(600)])


def presence_reports() -> PresenceReports:
    return PresenceReports(_NONE, CLOCK, enabled=True)


def fill_presence_reports(cache: PresenceReports, kind: Kind) -> None:
    for number in range(600):
        user = UserId(kind.id("@", number if kind.large_bytes < 1000 else number // 50))
        with cache.syncing(user, kind.id("D", number), ""):
            pass
