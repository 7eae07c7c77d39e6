"""Long responses: streamed ones equal whole ones, are bounded and fair, and are never cut without an error."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config.sections import Shares
from shared.core.identifiers import EventId, RoomId, UserId
from shared.http import asgi
from shared.http.asgi import send_response
from shared.http.listener import HttpServer
from shared.http.request import Response
from shared.runtime.fair_shares import FairShares
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import World, fleet
from workers.synchrotron.classic import response_pieces
from workers.synchrotron.classic.long_responses import InitialSyncs, LongResponse
from workers.synchrotron.classic.response_pieces import KINDS, Section, body_pieces, whole_or_pieces
from workers.synchrotron.room_reads import room_state
from workers.synchrotron.sections.room_sections import RoomSections
from workers.synchrotron.users.lazy_members import LazyMembers

_PARTS = st.lists(st.text(max_size=30), max_size=4)


async def _sections(sections: Sequence[Section]) -> AsyncIterator[Section]:
    for section in sections:
        yield section


@given(st.lists(st.tuples(st.sampled_from(KINDS), _PARTS), max_size=12), st.integers(1, 80), st.integers(0, 400))
async def test_pieces_join_to_the_whole_response(rooms: list[tuple[str, list[str]]], piece: int, whole: int) -> None:
    """Compared with a plain encoding, for any size of pieces and of long responses."""
    rooms.sort(key=lambda room: KINDS.index(room[0]))
    plain: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    sections = []
    for number, (kind, texts) in enumerate(rooms):
        plain[kind][f"!{number}"] = texts
        encoded = orjson.dumps(texts)
        cut = len(encoded) // 2
        sections.append(Section(kind, RoomId(f"!{number}"), (encoded[:cut], encoded[cut:])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response_pieces, "_PIECE_BYTES", piece)
        patch.setattr(response_pieces, "WHOLE_BYTES", whole)
        made = _sections(sections)
        pieces = body_pieces({"next_batch": "t"}, await anext(made, None), made)
        body = await whole_or_pieces(pieces)
        longest = max((len(part) for section in sections for part in section.parts), default=0)
        if not isinstance(body, bytes):
            found = [each async for each in body]
            assert all(len(each) <= piece + longest + 100 for each in found[1:-1])
            assert len(found[0]) <= whole + piece + longest + 100
            body = b"".join(found)
            assert len(body) > whole
        assert orjson.loads(body) == {"next_batch": "t", "rooms": plain}


async def test_users_take_turns() -> None:
    turns = FairShares("turns", 2)
    order: list[str] = []
    most = running = 0
    begin = asyncio.Event()

    async def work(user: str) -> None:
        nonlocal most, running
        async with turns.place(user):
            running += 1
            most = max(most, running)
            order.append(user)
            await begin.wait()
            running -= 1

    tasks = [asyncio.create_task(work("greedy")) for _ in range(10)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(user)) for user in ("a", "b", "a")]
    await asyncio.sleep(0)
    begin.set()
    await asyncio.gather(*tasks)
    assert most == 2
    # Two of the ten are being served, and one waits when the others arrive. Then the users take turns.
    assert order[:9] == ["greedy", "greedy", "greedy", "a", "b", "greedy", "a", "greedy", "greedy"]
    assert order.count("greedy") == 10
    assert (turns._free, turns.waiting) == (2, 0)


async def test_turn_of_a_cancelled_request_is_passed_on() -> None:
    turns = FairShares("turns", 1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(turns.place("first"))
        waiting = [asyncio.create_task(_take(turns, "gone")) for _ in range(3)]
        last = asyncio.create_task(_take(turns, "last"))
        await asyncio.sleep(0)
        waiting[0].cancel()
        await stack.aclose()  # the second request has the turn now, and is cancelled before it runs
        waiting[1].cancel()
        waiting[2].cancel()
        await asyncio.wait_for(last, 5)
    assert (turns._free, turns.waiting) == (1, 0)


async def _take(turns: FairShares, user: str) -> None:
    async with turns.place(user):
        pass


async def test_response_that_fails_midway_breaks_the_connection() -> None:
    """Over a real socket. Neither the end of the chunks nor a second response is sent."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b'{"rooms":{'
        raise ValueError("the room cannot be read")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, Response(pieces()))

    listener = HttpServer(application, "127.0.0.1", 0)
    host, _, port = (await listener.start()).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)  # until it is closed
    assert b"200 OK" in answer and b'{"rooms":{' in answer
    assert b"\r\n0\r\n" not in answer
    writer.close()
    await listener.drain(0.1)


async def test_client_that_takes_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "_PATIENCE_S", 0.05)
    closed: list[str] = []

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x"

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await asyncio.Event().wait()

    limits = InitialSyncs(1, 1, Shares())
    held = AsyncExitStack()
    await held.enter_async_context(limits.under_way.place("slow"))
    held.callback(closed.append, "held")
    answer = LongResponse(endless(), limits.turns, UserId("slow"), held)
    with pytest.raises(TimeoutError):
        await send_response(send, Response(answer))
    assert closed == ["held"]
    assert limits.under_way.waiting == limits.turns.waiting == 0
    await asyncio.wait_for(_take(limits.under_way, "next"), 5)


def test_sent_members_are_bounded() -> None:
    memory = LazyMembers(200_000)
    for device in range(200):
        answer = memory.begin(UserId("@a:x"), f"D{device}", None)
        for number in range(50):
            answer.note(RoomId("!r"), UserId(f"@{number}:x"), EventId(f"${number}"))
        memory.complete(answer, "t")
    assert 0 < memory._bytes <= 200_000
    assert len(memory._devices) < 20
    again = memory.begin(UserId("@a:x"), "D199", "t")
    assert again.is_redundant(RoomId("!r"), UserId("@7:x"), EventId("$7"))
    assert not memory.begin(UserId("@a:x"), "D0", "t").is_redundant(RoomId("!r"), UserId("@7:x"), EventId("$7"))


_LAZY = {"room": {"state": {"lazy_load_members": True}}}
_NARROW = {"room": {"state": {"types": ["m.room.name"]}, "timeline": {"limit": 2}}, "event_fields": ["type", "sender"]}
_QUERIES: tuple[dict[str, Any], ...] = (
    {},
    {"filter": _LAZY},
    {"filter": _NARROW},
    {"use_state_after": True},
    {"filter": {"event_format": "federation"}},
)


async def test_streamed_responses_equal_whole_ones(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(postgres.dsn, synchrotrons=2, rooms_bytes=150_000) as world:
        alice, bob = world.user("alice"), world.user("bob")
        rooms = [await alice.writes.create_room(preset="public_chat", name=f"{n}") for n in range(12)]
        for number, room_id in enumerate(rooms):
            if number % 3:
                await bob.writes.act(room_id, "join")
            if number == 4:
                await bob.writes.act(room_id, "leave")
            for text in range(number):
                await alice.writes.send(room_id, f"{text}" * 40)
        await alice.writes.act(rooms[0], "invite", {"user_id": bob.user_id})
        await world.settle()
        for query in _QUERIES:
            for kept in (1 << 20, 0, 500):
                monkeypatch.setattr(response_pieces, "WHOLE_BYTES", kept)
                monkeypatch.setattr(response_pieces, "_PIECE_BYTES", max(1, kept // 4))
                answers = []
                for client in (bob, alice):
                    client.synchrotron = 1 if kept == 500 else 0
                    answers.append(_without_age(await client.sync(**query)))
                if kept == 1 << 20:
                    whole = answers
                assert answers == whole, (query, kept)
        assert len(whole[1]["rooms"]["join"]) == 12
        for process in world.synchrotrons:
            assert 0 < process.metric("skep_room_cache_bytes") <= 150_000


async def test_response_with_a_failed_room_stays_unfinished(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, failing = RoomSections.joined, "none"

    async def fails(self: RoomSections, context: Any, membership: Any) -> Any:
        if membership.room_id == failing:
            raise ValueError("this room cannot be read")
        return await joined(self, context, membership)

    monkeypatch.setattr(RoomSections, "joined", fails)
    monkeypatch.setattr(response_pieces, "WHOLE_BYTES", 2000)
    monkeypatch.setattr(response_pieces, "_PIECE_BYTES", 500)
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        rooms = [await alice.writes.create_room(preset="public_chat") for _ in range(4)]
        order = list((await alice.sync())["rooms"]["join"])
        failing = order[-1]
        sent = await _sent_until_it_fails(world, alice)
        assert sent[0]["status"] == 200
        assert all(message.get("more_body") for message in sent[1:])
        body = b"".join(message["body"] for message in sent[1:])
        assert body.startswith(b'{"next_batch"') and order[0].encode() in body
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(body)
        failing = order[0]  # before anything is sent, an error becomes a response
        assert (await alice.get("/sync")).status == 500
        failing = "none"
        assert set((await alice.sync())["rooms"]["join"]) == set(rooms)


async def _sent_until_it_fails(world: World, client: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    token = f"{client.user_id}|{client.writes.device}"
    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": b"/_matrix/client/v3/sync",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer " + token.encode())],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(ValueError, match="cannot be read"):
        await world.synchrotrons[0].application(scope, receive, send)
    return sent


async def test_many_requests_at_once_read_a_room_once(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        people = [world.user(f"user{number}") for number in range(8)]
        room_id = await people[0].writes.create_room(preset="public_chat")
        for each in people[1:]:
            await each.writes.act(room_id, "join")
        await world.settle()
        process = world.synchrotrons[0]
        first, before = _without_age(await people[0].sync()), process.metric("skep_sync_queries_total")
        misses = process.metric("skep_room_cache_misses_total")
        await people[1].sync()
        one = process.metric("skep_sync_queries_total") - before
        answers = await asyncio.gather(*(each.sync() for each in people))
        assert process.metric("skep_room_cache_misses_total") == misses == 1
        assert process.metric("skep_sync_queries_total") - before - one <= one * len(people)
        for answer in answers:
            state = _without_age(answer)["rooms"]["join"][room_id]["state"]
            assert state == first["rooms"]["join"][room_id]["state"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
async def test_members_are_the_same_in_pages_of_any_size(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async with fleet(postgres_module.dsn) as world:
        people = [world.user(f"{name}{size}") for name in ("alice", "bob", "carol", "dan")]
        room_id = await people[0].writes.create_room(preset="public_chat")
        for each in people[1:]:
            await each.writes.act(room_id, "join")
        await people[2].writes.act(room_id, "leave")
        whole = (await people[0].room(room_id, "members")).json["chunk"]
        monkeypatch.setattr(room_state, "_ROWS", size)
        paged = (await people[0].room(room_id, "members")).json["chunk"]
        assert _without_age({"state": {"events": paged}}) == _without_age({"state": {"events": whole}})
        assert sorted(event["state_key"] for event in paged) == sorted(each.user_id for each in people)


def _without_age(value: Any) -> Any:
    """Return a response without fields that depend on the time, with its state events sorted."""
    if isinstance(value, dict):
        return {
            key: _without_age(each)
            if key not in ("state", "state_after")
            else sorted(orjson.dumps(_without_age(event)) for event in each["events"])
            for key, each in value.items()
            if key not in ("age", "next_batch")
        }
    return [_without_age(each) for each in value] if isinstance(value, list) else value
