"""Changes of push rules, ignored users and thread subscriptions count from the next message on.

The stream reaches the owner of a room late here: never by the bus, only by a read of the database.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from shared.config.sections import Experimental
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.push.unread import get_unread
from tests.fix_servers import TestDatabase
from tests.rigs import client_api as rigs
from tests.rigs.client_api import ClientApi, client_api
from tests.rigs.persister import Persister, event_persister
from tests.rigs.persister import User as RoomUser
from tests.rigs.worker import make_config

_THREADS = Experimental(msc4306_thread_subscriptions=True)


@dataclass
class _Room:
    """A room of Alice and Bob in the memory of a persister that gets no frames. Bob is registered."""

    persister: Persister
    api: ClientApi
    bob: rigs.User
    alice: RoomUser
    room_id: RoomId

    async def say(self, text: str, **content: Any) -> EventId:
        room, txn = quote(self.room_id, safe=""), quote(text)
        body = {"msgtype": "m.text", "body": text, **content}
        answer = await self.alice.call("PUT", f"/rooms/{room}/send/m.room.message/{txn}", body)
        assert answer.status == 200, answer.body
        event_id: EventId = answer.json["event_id"]
        return event_id

    async def unread(self) -> int:
        """Return the number of events that notify Bob."""
        [row] = await self.persister.sql("SELECT room_nid, max(ordinal) AS last FROM events GROUP BY room_nid")
        database, user_id = self.persister.foundation.database, UserId(self.bob.user_id)
        snapshot = await get_unread(database, user_id, row["room_nid"], row["last"])
        return sum(count.notifications for count in snapshot.counts.values())

    async def change(self, method: str, path: str, body: Any = None) -> None:
        answer = await self.bob.call(method, path, body)
        assert answer.status == 200, answer.body


@asynccontextmanager
async def _room(dsn: str) -> AsyncIterator[_Room]:
    config, api_config = make_config(experimental=_THREADS), rigs.make_config(experimental=_THREADS)
    async with event_persister(dsn, config=config) as persister, client_api(dsn, api_config) as api:
        api.reach_rooms_at(persister)
        bob, alice = await api.register("bob"), persister.user("alice")
        room_id = await alice.create_room(preset="public_chat")
        await persister.user("bob").act(room_id, "join")
        yield _Room(persister, api, bob, alice, room_id)


async def test_ignored_users_do_not_notify_from_the_answer_on(postgres: TestDatabase) -> None:
    async with _room(postgres.dsn) as room:
        ignored = f"/user/{room.bob.quoted}/account_data/m.ignored_user_list"
        await room.say("welcome")
        await room.change("PUT", ignored, {"ignored_users": {room.alice.user_id: {}}})
        await room.say("unwelcome")
        assert await room.unread() == 1
        await room.change("PUT", ignored, {"ignored_users": {}})
        await room.say("welcome again")
        assert await room.unread() == 2


async def test_changed_push_rules_count_from_the_answer_on(postgres: TestDatabase) -> None:
    async with _room(postgres.dsn) as room:
        rule = f"/pushrules/global/room/{quote(room.room_id, safe='')}"
        await room.say("heard")
        await room.change("PUT", rule, {"actions": []})
        await room.say("muted")
        assert await room.unread() == 1
        await room.change("DELETE", rule)
        await room.say("heard again")
        assert await room.unread() == 2


async def test_thread_subscriptions_count_from_the_answer_on(postgres: TestDatabase) -> None:
    async with _room(postgres.dsn) as room:
        root = await room.say("root")
        in_thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        unstable = "/_matrix/client/unstable/io.element.msc4306"
        subscription = f"{unstable}/rooms/{quote(room.room_id)}/thread/{quote(root, safe='')}/subscription"
        await room.say("before the subscription", **in_thread)
        before = await room.unread()
        await room.change("PUT", subscription, {})
        await room.say("subscribed", **in_thread)
        assert await room.unread() == before + 1
        await room.change("DELETE", subscription)
        await room.say("not subscribed", **in_thread)
        assert await room.unread() == before + 1


async def test_change_is_answered_while_an_owner_is_away(postgres: TestDatabase) -> None:
    async with _room(postgres.dsn) as room:
        room.api.router.other = None
        await room.change("PUT", "/pushrules/global/content/honey", {"actions": ["notify"], "pattern": "honey"})
        await room.change("PUT", f"/user/{room.bob.quoted}/account_data/m.ignored_user_list", {"ignored_users": {}})
