"""Waking requests, expiring typing notifications, and the memory of lazy loading."""

import asyncio

from prometheus_client import CollectorRegistry

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.rows import TypingRow
from shared.metrics.synchrotron import SyncMetrics
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.waiting.notifier import Notifier


async def test_only_affected_users_wake_and_no_update_is_lost() -> None:
    notifier = Notifier(SyncMetrics(CollectorRegistry()))
    ann, ben = SyncUser(UserId("@ann:x")), SyncUser(UserId("@ben:x"))
    seen = ann.version
    ann.note_change(RoomId("!r"), 1)  # between building the response and waiting
    assert await notifier.wait(ann, seen, 5.0)
    first = asyncio.create_task(notifier.wait(ann, ann.version, 5.0))
    second = asyncio.create_task(notifier.wait(ann, ann.version, 5.0))
    other = asyncio.create_task(notifier.wait(ben, ben.version, 0.05))
    await asyncio.sleep(0)
    ann.note_change(RoomId("!r"), 2)
    notifier.wake([ann.user_id])
    assert await first and await second
    assert not await other
    assert notifier._waiting == {}
    last = asyncio.create_task(notifier.wait(ben, ben.version, 5.0))
    await asyncio.sleep(0)
    notifier.close()
    assert not await last


def test_user_knows_their_rooms_with_updates() -> None:
    user = SyncUser(UserId("@ann:x"))
    for seq, room_id in enumerate(("!a", "!b", "!a", "!c"), start=1):
        user.note_change(RoomId(room_id), seq)
    assert user.changed_since(2) == ["!c", "!a"]
    assert user.changed_since(4) == []
    user.note_token("t", 3)
    assert user.seq_of("t") == 3
    user.changes_from = 4  # loaded again since
    assert user.seq_of("t") is None


def test_typing_expires() -> None:
    typing = TypingRooms()

    def row(user_id: UserId, until_ms: int) -> TypingRow:
        return TypingRow(position=1, writer=1, room_id=RoomId("!r"), user_id=user_id, until_ms=until_ms)

    assert typing.apply(row(UserId("@a:x"), 500), 100, 1)
    assert not typing.apply(row(UserId("@a:x"), 900), 200, 2)  # only extended
    assert not typing.apply(row(UserId("@b:x"), 0), 200, 3)
    assert typing.next_end_ms() == 900
    assert typing.expire(800, 4) == []
    assert typing.expire(900, 5) == ["!r"]
    room = typing.get(RoomId("!r"))
    assert room is not None and room.seq == 5 and not room.until_ms
    typing.apply(row(UserId("@a:x"), 2000), 1000, 6)
    assert typing.left(RoomId("!r"), UserId("@a:x"), 7)
    typing.forget(8)
    assert typing.get(RoomId("!r")) is None


def test_only_acknowledged_members_count_as_sent() -> None:
    memory = LazyMembers(1 << 20)
    first = memory.begin(UserId("@a:x"), "D", None)
    first.note(RoomId("!r"), UserId("@b:x"), EventId("$1"))
    memory.complete(first, "t1")
    # The response was lost: the same request again.
    again = memory.begin(UserId("@a:x"), "D", None)
    assert not again.is_redundant(RoomId("!r"), UserId("@b:x"), EventId("$1"))
    again.note(RoomId("!r"), UserId("@b:x"), EventId("$1"))
    memory.complete(again, "t1")
    second = memory.begin(UserId("@a:x"), "D", "t1")
    assert second.is_redundant(RoomId("!r"), UserId("@b:x"), EventId("$1"))
    assert not second.is_redundant(RoomId("!r"), UserId("@b:x"), EventId("$2"))  # it has changed since
    memory.complete(second, "t2")
    assert memory.begin(UserId("@a:x"), "D", "t1").is_redundant(RoomId("!r"), UserId("@b:x"), EventId("$1"))
    assert not memory.begin(UserId("@a:x"), "D", "t0").is_redundant(
        RoomId("!r"), UserId("@b:x"), EventId("$1")
    )  # it returned to an earlier token
