"""Room reads: /messages, /context, /event, /state, /members, /joined_members, /timestamp_to_event."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.rooms.history_tokens import format_point
from shared.storage.accounts.erased_users import set_user_erased
from shared.storage.events.batch import ACCEPTED, OUTLIER, REJECTED, SOFT_FAILED
from tests.fix_servers import TestDatabase
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import World, fleet
from tests.workers.synchrotron.stored_rooms import ALICE, MEMBER, VISIBILITY, Store, StoredRoom, store
from workers.synchrotron.waiting.sync_tokens import format_sync_token

BOB, CAROL = UserId("@bob:remote"), UserId("@carol:example.org")


def bodies(events: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in events]


async def test_pages_in_both_directions(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, mallory = world.user("alice"), world.user("mallory")
        room_id = await alice.writes.create_room()
        sent = [(await alice.writes.send(room_id, str(n))).event_id for n in range(7)]
        found: list[str] = []
        query: dict[str, Any] = {}
        for _ in range(10):
            page = (await alice.room(room_id, "messages", dir="b", limit=3, **query)).json
            assert all(event["room_id"] == room_id for event in page["chunk"])
            found += [event["event_id"] for event in page["chunk"]]
            if "end" not in page:
                break
            query = {"from": page["end"]}
        assert "end" not in page
        assert found[:7] == sent[::-1]
        forward: list[str] = []
        query = {}
        while True:
            page = (await alice.room(room_id, "messages", dir="f", limit=4, **query)).json
            forward += [event["event_id"] for event in page["chunk"]]
            if not page["chunk"]:
                break
            query = {"from": page["end"]}
        assert forward == found[::-1]
        # The live end has a token: from there the client pages forward to what comes later.
        later = (await alice.writes.send(room_id, "7")).event_id
        page = (await alice.room(room_id, "messages", dir="f", **query)).json
        assert [event["event_id"] for event in page["chunk"]] == [later]
        again = (await alice.room(room_id, "messages", dir="f", **{"from": page["end"]})).json
        assert (again["chunk"], again["end"]) == ([], page["end"])
        only = {"types": ["m.room.message"], "lazy_load_members": True}
        page = (await alice.room(room_id, "messages", dir="b", limit=100, filter=only)).json
        assert bodies(page["chunk"]) == ["7", "6", "5", "4", "3", "2", "1", "0"]
        assert [event["state_key"] for event in page["state"]] == [alice.user_id]
        for query, errcode in (
            ({}, "M_MISSING_PARAM"),
            ({"dir": "x"}, "M_INVALID_PARAM"),
            ({"dir": "b", "from": "x"}, "M_INVALID_PARAM"),
            ({"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
            ({"dir": "b", "filter": "{"}, "M_NOT_JSON"),
            ({"dir": "b", "filter": '{"types": 1}'}, "M_BAD_JSON"),
        ):
            answer = await alice.room(room_id, "messages", **query)
            assert (answer.status, answer.errcode) == (400, errcode), query
        refused = await mallory.room(room_id, "messages", dir="b")
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        unknown = await alice.room(RoomId("!nothing:example.org"), "messages", dir="b")
        assert (unknown.status, unknown.errcode) == (403, "M_FORBIDDEN")


async def test_context_and_event(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, mallory = world.user("alice"), world.user("mallory")
        room_id = await alice.writes.create_room()
        sent = [(await alice.writes.send(room_id, str(n), txn=f"x{n}")).event_id for n in range(7)]
        context = (await alice.room(room_id, f"context/{quote(sent[3])}", limit=4)).json
        assert bodies(context["events_before"]) == ["2", "1"]
        assert bodies(context["events_after"]) == ["4", "5"]
        assert context["event"]["unsigned"]["transaction_id"] == "x3"
        assert {event["type"] for event in context["state"]} >= {"m.room.create", "m.room.member"}
        query = {"from": context["start"]}
        page = (await alice.room(room_id, "messages", dir="b", limit=1, **query)).json
        assert bodies(page["chunk"]) == ["0"]
        query = {"from": context["end"]}
        page = (await alice.room(room_id, "messages", dir="f", limit=5, **query)).json
        assert bodies(page["chunk"]) == ["6"]
        alone = (await alice.room(room_id, f"context/{quote(sent[3])}", limit=0)).json
        assert alone["events_before"] == alone["events_after"] == []
        assert (await alice.room(room_id, f"event/{quote(sent[3])}")).json["content"]["body"] == "3"
        alone = (await alice.get(f"/events/{quote(sent[3])}")).json
        assert alone["room_id"] == room_id and alone["content"]["body"] == "3"
        for reader, event_id in ((mallory, sent[3]), (alice, "$nothing"), (alice, "\x00")):
            assert (await reader.get(f"/events/{quote(event_id)}")).errcode == "M_NOT_FOUND"
        for reader, path, status in (
            (mallory, f"event/{quote(sent[3])}", 404),
            (alice, "event/$nothing", 404),
            (alice, "context/$nothing", 404),
            (alice, "event/%00", 404),
            (mallory, f"context/{quote(sent[3])}", 403),
        ):
            answer = await reader.room(room_id, path)
            assert answer.status == status, path


async def test_state_and_members_of_a_member_and_a_former_one(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, mallory = (world.user(name) for name in ("alice", "bob", "mallory"))
        room_id = await alice.writes.create_room(preset="public_chat", name="first")
        early = (await alice.sync())["next_batch"]
        await bob.writes.act(room_id, "join")
        assert (await alice.room(room_id, "state/m.room.name")).json == {"name": "first"}
        whole = (await alice.room(room_id, "state/m.room.name/", format="event")).json
        assert whole["content"] == {"name": "first"} and whole["room_id"] == room_id
        assert (await alice.room(room_id, "state/m.room.topic")).errcode == "M_NOT_FOUND"
        assert (await mallory.room(room_id, "state")).errcode == "M_FORBIDDEN"
        joined = (await bob.room(room_id, "joined_members")).json["joined"]
        assert set(joined) == {alice.user_id, bob.user_id}
        before = (await alice.room(room_id, "members", at=early)).json["chunk"]
        assert [member["state_key"] for member in before] == [alice.user_id]
        await bob.writes.act(room_id, "leave")
        await alice.writes.put_state(room_id, "m.room.name", {"name": "second"})
        await alice.writes.send(room_id, "after")
        # Bob sees the room as of the leave.
        assert (await bob.room(room_id, "state/m.room.name")).json == {"name": "first"}
        names = [e["content"] for e in (await bob.room(room_id, "state")).json if e["type"] == "m.room.name"]
        assert names == [{"name": "first"}]
        page = (await bob.room(room_id, "messages", dir="b", limit=1)).json
        assert [event["content"]["membership"] for event in page["chunk"]] == ["leave"]
        assert (await bob.room(room_id, "joined_members")).errcode == "M_FORBIDDEN"
        gone = (await alice.room(room_id, "members", membership="leave")).json["chunk"]
        assert [member["state_key"] for member in gone] == [bob.user_id]
        here = (await alice.room(room_id, "members", not_membership="leave")).json["chunk"]
        assert [member["state_key"] for member in here] == [alice.user_id]
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
        await alice.writes.send(room_id, "for all")
        page = (await mallory.room(room_id, "messages", dir="b")).json
        assert bodies(page["chunk"]) == ["for all", "m.room.history_visibility"]


DORA, EVE = UserId("@dora:example.org"), UserId("@eve:example.org")


class Reads:
    """A synchrotron over rooms that the test stores directly."""

    def __init__(self, world: World, stored: Store) -> None:
        self.stored = stored
        self._process = world.synchrotrons[0]

    async def get(
        self, room: StoredRoom, path: str, user_id: UserId = ALICE, /, *, version: str = "v3", **query: Any
    ) -> Answer:
        path = f"/_matrix/client/{version}/rooms/{quote(room.room_id, safe='')}/{path}"
        return await self._process.get(path, query, f"{user_id}|DEVICE")

    async def ids(self, room: StoredRoom, user_id: UserId = ALICE, /, **query: Any) -> list[str]:
        """Return the ids of one page of /messages."""
        answer = await self.get(room, "messages", user_id, **{"limit": 100, **query})
        assert answer.status == 200, answer.body
        return [event["event_id"] for event in answer.json["chunk"]]


@asynccontextmanager
async def reading(database: TestDatabase) -> AsyncIterator[Reads]:
    async with fleet(database.dsn, persisters=0) as world, store(database.dsn) as stored:
        yield Reads(world, stored)


def states(events: Any) -> set[str]:
    return {event["event_id"] for event in events}


async def test_fetched_events_come_with_the_state_at_them(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room = reads.stored.room()
        create = room.live(type="m.room.create", state_key="", sender=BOB)
        bob = room.live(**room.member(BOB, "join"))
        mine = room.live(**room.member(ALICE, "join"))
        name = room.live(type="m.room.name", state_key="", content={"name": "now"})
        last = room.live()
        old_name = room.outlier(type="m.room.name", state_key="", content={"name": "then"})
        then = room.snapshot(3, [old_name])
        newest, middle = room.history(5, state_nid=then), room.history(5, sender=BOB, state_nid=then)
        oldest = room.history(5, type="m.room.topic", state_key="", content={"topic": "t"})
        hidden = [room.outlier(status=status) for status in (SOFT_FAILED, REJECTED, OUTLIER, ACCEPTED)]
        await room.save()

        assert await reads.ids(room, dir="f") == [create, bob, mine, name, oldest, middle, newest, last]
        context = (await reads.get(room, f"context/{quote(middle)}", limit=2)).json
        assert [e["event_id"] for e in context["events_before"]] == [oldest]
        assert [e["event_id"] for e in context["events_after"]] == [newest]
        assert context["event"]["event_id"] == middle
        assert states(context["state"]) == {create, bob, old_name}, "the state at the last event shown: the snapshot"
        assert await reads.ids(room, dir="b", limit=2, **{"from": context["start"]}) == [name, mine]
        assert await reads.ids(room, dir="f", **{"from": context["end"]}) == [last]
        alone = (await reads.get(room, f"context/{quote(oldest)}", limit=0)).json
        assert states(alone["state"]) == {create, bob, mine, name, oldest}, "without a snapshot: the line, and itself"
        lazy = {"lazy_load_members": True}
        context = (await reads.get(room, f"context/{quote(middle)}", limit=0, filter=lazy)).json
        assert states(context["state"]) == {create, bob, old_name}
        page = (await reads.get(room, "messages", dir="b", limit=2, filter=lazy, **{"from": format_point(5)})).json
        assert states(page["state"]) == {bob}

        event = (await reads.get(room, f"event/{quote(middle)}")).json
        assert event["event_id"] == middle and event["unsigned"]["membership"] == "leave"
        assert (await reads.get(room, f"event/{quote(oldest)}")).json["unsigned"]["membership"] == "join"
        for event_id in hidden:
            for path in (f"event/{quote(event_id)}", f"context/{quote(event_id)}"):
                assert (await reads.get(room, path)).errcode == "M_NOT_FOUND"
        # Members at a point in fetched history, on a branch that does not have hers.
        at = format_point(5, -1)
        members = (await reads.get(room, "members", at=at)).json["chunk"]
        assert states(members) == {bob}
        for at in (format_point(5), format_point(5, -3), format_point(5, -9)):
            assert states((await reads.get(room, "members", at=at)).json["chunk"]) == {bob, mine}
        assert (await reads.get(room, "members", at="p2-5")).errcode == "M_INVALID_PARAM"


async def test_members_of_a_branch(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room = reads.stored.room()
        now = room.live(**room.member(BOB, "join"))
        mine = room.live(**room.member(ALICE, "join"))
        room.live()
        then = room.outlier(**room.member(BOB, "join"))
        renamed = room.history(3, **room.member(BOB, "join"), state_nid=room.snapshot(1, [then]))
        await room.save()
        lazy = {"lazy_load_members": True}
        page = (await reads.get(room, "messages", dir="b", limit=1, filter=lazy, **{"from": format_point(3)})).json
        assert states(page["chunk"]) == states(page["state"]) == {renamed}, "the member as of the latest event"
        context = (await reads.get(room, f"context/{quote(renamed)}", limit=0, filter=lazy)).json
        assert states(context["state"]) == {renamed}
        # Before the event the branch has the previous one. Where no fetched event lies, the line counts.
        assert states((await reads.get(room, "members", at=format_point(3, -1))).json["chunk"]) == {then}
        for at in (format_point(3, -2), format_point(3)):
            assert states((await reads.get(room, "members", at=at)).json["chunk"]) == {now, mine}


async def test_sync_token_is_the_point_after_its_last_event(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room = reads.stored.room()
        told = [room.live(**room.member(ALICE, "join")), room.live(), room.live()]
        await room.save()
        position = await reads.stored.database.fetchval("SELECT max(position) FROM events")
        lease = reads.stored.writer.lease
        token = format_sync_token(StreamToken({"events": Vector(lease, position)}))
        # A gap follows, of which some events are fetched later.
        later = [room.live(), room.live()]
        fetched = [room.history(4), room.history(4)][::-1]
        room.gap(4)
        await room.save()
        new_batch = format_point(4)  # the `prev_batch` of a timeline that begins after the gap

        assert await reads.ids(room, dir="b", **{"from": token}) == told[::-1]
        assert await reads.ids(room, dir="f", **{"from": token}) == fetched + later
        assert await reads.ids(room, dir="b", **{"from": new_batch, "to": token}) == fetched[::-1]
        assert await reads.ids(room, dir="f", **{"from": token, "to": new_batch}) == fetched
        assert await reads.ids(room, dir="f", to=token) == told
        assert await reads.ids(room, dir="b", to=new_batch) == later[::-1]
        assert await reads.ids(room, dir="b", **{"from": new_batch}) == (told + fetched)[::-1]
        page = (await reads.get(room, "messages", dir="b", limit=1, **{"from": token})).json
        assert page["start"] == token and page["end"] == format_point(3)
        future = format_sync_token(StreamToken({"events": Vector(lease, position + 10**6)}))
        assert (await reads.get(room, "messages", dir="b", **{"from": future})).errcode == "M_INVALID_PARAM"


async def test_nearest_event_to_a_timestamp(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room = reads.stored.room()
        room.live(type=VISIBILITY, state_key="", sender=BOB, content={"history_visibility": "joined"}, ts=100)
        early = [room.live(ts=200) for _ in range(130)]
        mine = room.live(**room.member(ALICE, "join", ts=300))
        first, second, third = (room.live(ts=400) for _ in range(3))
        history = room.history(room.ordinal, ts=400)  # between the second and the third
        fetched = room.history(room.ordinal, ts=350)
        room.outlier(status=SOFT_FAILED, ts=340)
        backwards = room.live(ts=250)  # a clock that is late
        await room.save()

        async def nearest(ts: Any, direction: str, user_id: UserId = ALICE) -> Any:
            answer = await reads.get(room, "timestamp_to_event", user_id, version="v1", ts=ts, dir=direction)
            return answer.json["event_id"] if answer.status == 200 else (answer.status, answer.errcode)

        names = {room_id: name for name, room_id in {"mine": mine, "fetched": fetched, "behind": backwards}.items()}
        # Events that she may not see, those before her join, are skipped, however many.
        assert [names.get(await nearest(ts, "f")) for ts in (101, 200, 250, 251, 301)] == [
            "behind",
            "behind",
            "behind",
            "mine",
            "fetched",
        ]
        assert [names.get(await nearest(ts, "b")) for ts in (399, 350, 349, 299)] == [
            "fetched",
            "fetched",
            "mine",
            "behind",
        ]
        # Of several events with one time: the first forward, the last backward.
        assert await nearest(400, "f") == await nearest(351, "f") == first
        assert await nearest(400, "b") == await nearest(10**17, "b") == third
        assert {second, history, *early} & {await nearest(ts, d) for ts in (200, 400) for d in "fb"} == set()
        whole = (await reads.get(room, "timestamp_to_event", version="v1", ts=101, dir="f")).json
        assert whole == {"event_id": backwards, "origin_server_ts": 250}
        assert await nearest(401, "f") == await nearest(99, "b") == (404, "M_NOT_FOUND")
        assert await nearest(0, "f", CAROL) == (403, "M_FORBIDDEN")
        for query, errcode in (
            ({"dir": "f"}, "M_MISSING_PARAM"),
            ({"ts": 1}, "M_MISSING_PARAM"),
            ({"ts": 1, "dir": "x"}, "M_INVALID_PARAM"),
            ({"ts": "x", "dir": "f"}, "M_INVALID_PARAM"),
            ({"ts": "9" * 30, "dir": "f"}, "M_INVALID_PARAM"),
            ({"ts": -1, "dir": "f"}, "M_INVALID_PARAM"),
        ):
            answer = await reads.get(room, "timestamp_to_event", version="v1", **query)
            assert (answer.status, answer.errcode) == (400, errcode), query


async def test_events_of_an_erased_user_are_redacted_for_later_members(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room, gone = reads.stored.room(), UserId("@gone:example.org")
        room.live(type=VISIBILITY, state_key="", sender=BOB, content={"history_visibility": "world_readable"})
        before = room.live(sender=gone, content={"body": "secret"})
        room.live(**room.member(ALICE, "join", ts=500))
        during = room.live(sender=gone, content={"body": "secret"})
        kept = room.live(sender=BOB, content={"body": "public"})
        room.live(**room.member(CAROL, "join", ts=2000))
        fetched = room.history(3, sender=gone, content={"body": "secret"})
        topic = room.live(type="m.room.topic", state_key="", sender=gone, content={"topic": "secret"})
        room.live(**room.member(DORA, "join", ts=2000))
        changed = room.live(
            type="m.room.topic", state_key="", content={"topic": "public"}, replaces_nid=room.nids[topic]
        )
        await room.save()

        async def bodies_of(user_id: UserId) -> dict[str, Any]:
            page = (await reads.get(room, "messages", user_id, dir="b", limit=100)).json
            return {event["event_id"]: event["content"].get("body") for event in page["chunk"]}

        assert (await bodies_of(BOB))[before] == "secret"
        await set_user_erased(reads.stored.database, gone, 1000)
        await set_user_erased(reads.stored.database, gone, 3000)  # again: the first erasure counts
        # She was joined when it was sent, or joined before the erasure: she sees it.
        assert {(await bodies_of(ALICE))[each] for each in (before, during, fetched)} == {"secret"}

        async def topic_before(user_id: UserId) -> Any:
            event = (await reads.get(room, f"event/{quote(changed)}", user_id)).json
            assert event["content"] == {"topic": "public"}
            return event["unsigned"]["prev_content"]

        # The topic too: Carol saw it, Dora did not.
        assert [await topic_before(reader) for reader in (ALICE, CAROL)] == [{"topic": "secret"}] * 2
        assert [await topic_before(reader) for reader in (DORA, EVE)] == [{}] * 2
        # Carol and Dora joined afterwards, Eve never did.
        for reader in (CAROL, DORA, EVE):
            shown = await bodies_of(reader)
            assert {shown[each] for each in (before, during, fetched)} == {None} and shown[kept] == "public"
            event = (await reads.get(room, f"event/{quote(during)}", reader)).json
            assert event["content"] == {} and "redacted_because" not in event["unsigned"]
            context = (await reads.get(room, f"context/{quote(kept)}", reader, limit=2)).json
            assert context["event"]["content"] == {"body": "public"}
            assert [each["content"] for each in context["events_before"]] == [{}]
        # Later events of the user, as from another server, are visible to members.
        after = room.live(sender=gone, content={"body": "secret"})
        await room.save()
        assert (await bodies_of(CAROL))[after] == "secret"


async def test_former_member_reads_the_state_of_their_leave(postgres_module: TestDatabase) -> None:
    async with reading(postgres_module) as reads:
        room = reads.stored.room()
        bob = room.live(**room.member(BOB, "join"))
        room.live(**room.member(ALICE, "join"))
        name = room.live(type="m.room.name", state_key="")
        left = room.live(**room.member(ALICE, "leave", sender=BOB))
        room.live(type="m.room.name", state_key="")
        room.live(**room.member(BOB, "leave"))
        room.history(4)
        room.gap(6)
        await room.save()
        assert states((await reads.get(room, "state")).json) == {bob, name, left}
        for query in ({}, {"at": format_point(99)}, {"at": format_point(7, -1)}):
            assert states((await reads.get(room, "members", **query)).json["chunk"]) == {bob, left}
        members = (await reads.get(room, "members", at=format_point(2))).json["chunk"]
        assert [each["type"] for each in members] == [MEMBER] and states(members) == {bob}


async def test_joined_members_have_null_where_nothing_is_set(postgres: TestDatabase) -> None:
    """Deployed clients fail without the keys."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.put_state(room_id, "m.room.member", {"membership": "join", "displayname": "Bob"}, bob.user_id)
        joined = (await alice.room(room_id, "joined_members")).json["joined"]
        assert joined[alice.user_id] == {"display_name": None, "avatar_url": None}
        assert joined[bob.user_id] == {"display_name": "Bob", "avatar_url": None}


async def test_joined_members_lack_redacted_names(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        content = {"membership": "join", "displayname": "Rude", "avatar_url": "mxc://a/rude"}
        member = (await bob.writes.put_state(room_id, "m.room.member", content, bob.user_id)).event_id
        assert (await alice.writes.redact(room_id, member)).status == 200
        joined = (await alice.room(room_id, "joined_members")).json["joined"]
        assert joined[bob.user_id] == {"display_name": None, "avatar_url": None}
        calm = {"membership": "join", "displayname": "Calm"}
        await bob.writes.put_state(room_id, "m.room.member", calm, bob.user_id)
        joined = (await alice.room(room_id, "joined_members")).json["joined"]
        assert joined[bob.user_id] == {"display_name": "Calm", "avatar_url": None}


async def test_first_prev_batch_pages_in_both_directions(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        for number in range(4):
            await alice.writes.send(room_id, str(number))
        for limit, before in ((2, ["1", "0"]), (50, [])):
            section = (await alice.sync(filter={"room": {"timeline": {"limit": limit}}}))["rooms"]["join"][room_id]
            token = section["timeline"]["prev_batch"]
            back = (await alice.room(room_id, "messages", dir="b", **{"from": token})).json
            assert bodies(e for e in back["chunk"] if e["type"] == "m.room.message") == before
            await alice.writes.send(room_id, "later")
            forward = (await alice.room(room_id, "messages", dir="f", limit=50, **{"from": token})).json
            texts = bodies(e for e in forward["chunk"] if e["type"] == "m.room.message")
            assert texts[: 4 - len(before)] == ["0", "1", "2", "3"][len(before) :]
            assert texts[-1] == "later"


async def test_page_up_to_a_token_has_an_end_to_continue_from(postgres: TestDatabase) -> None:
    """Only the room's beginning and the end of the reader's view have none."""
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        await alice.writes.send(room_id, "0")
        token = (await alice.sync())["next_batch"]
        await alice.writes.send(room_id, "1")
        for direction, first, then in (("b", ["1"], "0"), ("f", ["0"], "1")):
            query = {"dir": direction, "limit": 50, "filter": {"types": ["m.room.message"]}}
            page = (await alice.room(room_id, "messages", to=token, **query)).json
            assert bodies(page["chunk"]) == first
            page = (await alice.room(room_id, "messages", **query, **{"from": page["end"]})).json
            assert bodies(page["chunk"]) == [then]
            assert ("end" in page) == (direction == "f")


async def test_forward_pages_of_a_former_member_end(postgres: TestDatabase) -> None:
    """`end` is left out where the user may not see what comes."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await bob.writes.act(room_id, "leave")
        await alice.writes.send(room_id, "without bob")
        page = (await bob.room(room_id, "messages", dir="f", limit=50)).json
        assert page["chunk"][-1]["state_key"] == bob.user_id
        assert "end" not in page
