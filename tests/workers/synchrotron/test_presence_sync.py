"""Presence in /sync: the users whom a change reaches and wakes, and the reports of synchrotrons."""

import asyncio
from typing import Any

import pytest

from replication.calls.presence import DevicePresence
from replication.streams import PRESENCE
from shared.core.errors import RemoteServerError
from shared.core.filters import EventFilter
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import PresenceRow
from shared.core.slots import slot_of
from shared.core.sync_tokens.stream_token import StreamToken
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from tests.rigs.synchrotron import fleet, soon
from tests.spec_answers import check_answer
from tests.workers.synchrotron.devices import Person, know_presence_writer, person, writers
from workers.synchrotron.presence.memory import WITHDRAWN_FOR_MS, PresenceMemory, presence_event
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.presence.section import PresenceSections
from workers.synchrotron.sections.span import Span
from workers.synchrotron.users.sync_user import SyncUser

_ONLY_PRESENCE: dict[str, Any] = {"room": {"rooms": []}, "account_data": {"types": []}}


def _told(answer: Any) -> dict[str, str]:
    check_answer("sync.yaml", "/sync", "get", answer)
    assert all(event["type"] == "m.presence" for event in answer["presence"]["events"])
    return {event["sender"]: event["content"]["presence"] for event in answer["presence"]["events"]}


async def _put(who: Person, presence: str, **more: Any) -> None:
    body = {"presence": presence, **more}
    answer = await who.writes.call("PUT", f"/presence/{who.writes.quoted}/status", body)
    assert answer.status == 200, answer.body


async def _until_told(who: Person, token: str, **query: Any) -> tuple[dict[str, str], str]:
    async with asyncio.timeout(10):
        while True:
            answer = await who.sync(token, timeout=5_000, **query)
            token = answer["next_batch"]
            if told := _told(answer):
                return told, token


async def _until(who: Person, told: dict[str, str], since: str | None) -> None:
    """Sync until a response has these states."""
    for _ in range(100):
        if _told(await who.sync(since)) == told:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{told} was never told")


async def test_presence_reaches_users_who_share_a_room_and_no_others(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        alice, bob, eve = [await person(world, api, name) for name in ("alice", "bob", "eve")]
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        bob.reads.synchrotron = 1  # alice never syncs there: her rooms are read from Postgres
        tokens = {each.user_id: (await each.sync())["next_batch"] for each in (alice, bob, eve)}
        waiting = [asyncio.create_task(each.sync(tokens[each.user_id], timeout=8_000)) for each in (bob, eve)]
        await soon(waiting[1])
        await _put(alice, "online", status_msg="at work")
        answer = await waiting[0]
        content = answer["presence"]["events"][0]["content"]
        assert content.pop("last_active_ago") < 10_000_000_000  # the writers' clock is another one here
        shown = {"presence": "online", "currently_active": True, "status_msg": "at work", "displayname": "alice"}
        assert content == shown
        await _until(alice, {alice.user_id: "online"}, tokens[alice.user_id])  # her own devices too
        assert not waiting[1].done()
        # Sent once. An initial sync has present users only.
        assert _told(await bob.sync(answer["next_batch"])) == {}
        assert _told(await bob.sync()) == {alice.user_id: "online"}
        assert _told(await eve.sync()) == {}
        # A new member gets her presence, unless they ignore her.
        await eve.reads.writes.act(room_id, "join")
        async with asyncio.timeout(10):
            while not (told := _told(answer := await waiting[1])):
                waiting[1] = asyncio.create_task(eve.sync(answer["next_batch"], timeout=5_000))
        assert told == {alice.user_id: "online"}
        await world.set_account_data(
            eve.user_id, RoomId(""), "m.ignored_user_list", {"ignored_users": {alice.user_id: {}}}
        )
        assert _told(await eve.sync()) == {}
        # A process that does not remember the token sends everything that may be new.
        bob.reads.synchrotron = 0
        told, token = await _until_told(bob, tokens[bob.user_id])
        assert told == {alice.user_id: "online"}
        await _put(alice, "offline")
        assert (await _until_told(bob, token))[0] == {alice.user_id: "offline"}
        bob.reads.synchrotron = 1
        await _until(bob, {alice.user_id: "offline"}, token)
        assert _told(await bob.sync()) == {}


async def test_profile_change_is_a_presence_update(postgres: TestDatabase) -> None:
    """Spec: client-server API, "Events on Change of Profile Information". Users who are offline are told of too."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        alice, bob, eve = [await person(world, api, name) for name in ("alice", "bob", "eve")]
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        for state in ("offline", "online"):
            await _put(alice, state, status_msg="here")
            token, eves = (await bob.sync())["next_batch"], (await eve.sync())["next_batch"]
            for field, value in (("displayname", f"Alice {state}"), ("avatar_url", f"mxc://x/{state}")):
                path = f"/profile/{alice.writes.quoted}/{field}"
                assert (await alice.writes.call("PUT", path, {field: value})).status == 200
                content: dict[str, Any] = {}
                async with asyncio.timeout(10):
                    while content.get(field) != value:
                        answer = await bob.sync(token, timeout=5_000)
                        token = answer["next_batch"]
                        for told in answer.get("presence", {}).get("events", []):
                            content = told["content"]
                assert content["presence"] == state and content["status_msg"] == "here"
            assert _told(await eve.sync(eves)) == {}, "no room is shared"


async def test_presence_and_tags_set_before_are_in_the_next_response(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        token = (await bob.sync())["next_batch"]
        for number in range(5):
            await _put(alice, "online", status_msg=str(number))
            tag = f"/user/{bob.writes.quoted}/rooms/{room_id}/tags/u.{number}"
            assert (await bob.writes.call("PUT", tag, {})).status == 200
            for since in (token, None):
                answer = await bob.sync(since)
                [told] = answer["presence"]["events"]
                assert told["content"]["status_msg"] == str(number)
                [tags] = answer["rooms"]["join"][room_id]["account_data"]["events"]
                assert f"u.{number}" in tags["content"]["tags"]
                token = answer["next_batch"] if since else token


async def test_presence_filters_and_limits(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        people = [await person(world, api, f"p{number}") for number in range(4)]
        reader = people[0]
        room_id = await reader.reads.writes.create_room(preset="public_chat")
        token = (await reader.sync())["next_batch"]
        for each in people[1:]:
            await each.reads.writes.act(room_id, "join")
            await _put(each, "online")
        ids = [each.user_id for each in people]
        await _until(reader, dict.fromkeys(ids[1:], "online"), None)

        async def filtered(since: str | None, **wanted: Any) -> set[str]:
            return set(_told(await reader.sync(since, filter={"presence": wanted})))

        for since in (token, None):
            assert await filtered(since, senders=[ids[1]]) == {ids[1]}
            assert await filtered(since, not_senders=[ids[1]]) == {ids[2], ids[3]}
            assert await filtered(since, types=["m.presence"]) == set(ids[1:])
            assert await filtered(since, types=["m.*"], limit=2) == {ids[2], ids[3]}  # the latest changes
            assert await filtered(since, types=[]) == await filtered(since, limit=0) == set()


async def test_presence_change_wakes_a_few_users_and_reaches_all(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers of a room with more users than a change may wake get it with their next response."""
    monkeypatch.setattr("workers.synchrotron.presence.feed._MAX_WOKEN", 2)
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        alice, bob, carol, dan = [await person(world, api, name) for name in ("alice", "bob", "carol", "dan")]
        crowd = await alice.reads.writes.create_room(preset="public_chat")
        for each in (bob, carol, dan):
            await each.reads.writes.act(crowd, "join")
        friends = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(friends, "join")
        tokens = {each.user_id: (await each.sync())["next_batch"] for each in (alice, bob, carol, dan)}
        process = world.synchrotrons[0]
        near = asyncio.create_task(bob.sync(tokens[bob.user_id], timeout=10_000))
        far = asyncio.create_task(carol.sync(tokens[carol.user_id], timeout=10_000))
        until_its_end = asyncio.create_task(dan.sync(tokens[dan.user_id], timeout=2_500))
        await soon(far)
        await _put(alice, "online")
        assert _told(await near) == {alice.user_id: "online"}
        assert not far.done()
        wake_ups = process.metric("skep_sync_wake_ups_total")
        await world.set_account_data(carol.user_id, RoomId(""), "m.x", {})
        answer = await far
        assert _told(answer) == {alice.user_id: "online"} and answer["account_data"]["events"]
        assert _told(await carol.sync(answer["next_batch"])) == {}
        assert _told(answer := await until_its_end) == {alice.user_id: "online"}
        assert _told(await dan.sync(answer["next_batch"])) == {}
        # Her activity changes a time only, and wakes no request.
        waiting = asyncio.create_task(bob.sync((await near)["next_batch"], timeout=10_000))
        await soon(waiting)
        before = process.metric("skep_sync_wake_ups_total")
        assert before == wake_ups + 1
        position = api.foundation.announcer.next_ephemeral_position(PRESENCE)
        lease = api.foundation.lease
        api.foundation.announcer.announce(
            PRESENCE,
            [
                PresenceRow(
                    position=position,
                    writer=lease,
                    user_id=alice.user_id,
                    state="online",
                    last_active_ms=9,
                    currently_active=True,
                    displayname="alice",
                )
            ],
        )
        await soon(waiting)
        assert process.metric("skep_sync_wake_ups_total") == before and not waiting.done()
        waiting.cancel()


async def test_lost_presence_rows_are_read_from_their_writer(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        token = (await bob.sync())["next_batch"]
        world.bus.holding = True
        await _put(alice, "online")
        world.bus.drop_held()
        api.foundation.announcer.tick([PRESENCE], lambda _: 0)
        api.foundation.announcer.repeat(PRESENCE)
        assert (await _until_told(bob, token))[0] == {alice.user_id: "online"}


def _row(user_id: UserId, state: str, position: int, writer: int = 1, status: str | None = None) -> PresenceRow:
    return PresenceRow(
        position=position,
        writer=writer,
        user_id=user_id,
        state=state,
        last_active_ms=1000,
        currently_active=False,
        status_msg=status,
    )


def test_presence_survives_a_change_of_owner() -> None:
    memory = PresenceMemory()
    for position, name in enumerate(("@a:x", "@b:x", "@c:x"), start=1):
        memory.change(_row(UserId(name), "online", position), position, [RoomId("!r")])
    assert memory.last_seq == 3
    memory.withdraw(1, 2, 5_000)
    assert memory.pop_expired(5_000 + WITHDRAWN_FOR_MS - 1) == []
    assert memory.refresh(_row(UserId("@a:x"), "online", 1, writer=2))  # from the new owner: no change
    [gone] = memory.pop_expired(5_000 + WITHDRAWN_FOR_MS)
    assert (gone.user_id, gone.state) == ("@b:x", "offline")
    assert [seen.row.user_id for seen in memory.changed_since(1)] == ["@c:x", "@b:x"]
    assert not memory.refresh(_row(UserId("@c:x"), "unavailable", 9)) and not memory.refresh(
        _row(UserId("@c:x"), "online", 9, status="?")
    )
    assert memory.refresh(_row(UserId("@new:x"), "offline", 3)) and not memory.refresh(
        _row(UserId("@new:x"), "online", 3)
    )
    memory.move(UserId("@c:x"), RoomId("!r"), "leave", 10)
    memory.move(UserId("@a:x"), RoomId("!other"), "join", 11)
    assert [(seen.row.user_id, seen.rooms) for seen in memory.changed_since(2)] == [
        ("@a:x", ("!r", "!other")),
        ("@c:x", ()),
    ]
    content = presence_event(
        PresenceRow(
            position=1, writer=1, user_id=UserId("@a:x"), state="online", last_active_ms=1, currently_active=True
        ),
        10_000_000,
    )["content"]
    assert content == {"presence": "online", "last_active_ago": 60_000, "currently_active": True}


async def test_disabled_presence_sends_nothing() -> None:
    memory, user = PresenceMemory(), SyncUser(UserId("@a:x"))
    memory.change(_row(UserId("@a:x"), "online", 1), 1, [])
    span = Span(StreamToken({}), StreamToken({}), 0, False)
    nobody_asks: Any = None
    for enabled, told in ((True, 1), (False, 0)):
        sections = PresenceSections(memory, nobody_asks, enabled=enabled, max_events=9)
        section = await sections.build(user, span, EventFilter(), 2_000)
        assert len(section.events) == told and not section.urgent


class _Owners:
    """Two owners of users, one of whom may be wrong or unreachable."""

    def __init__(self) -> None:
        self.table: dict[int, str] = {}
        self.reports: list[tuple[str, list[DevicePresence]]] = []
        self.away: set[str] = set()
        self.wrong: frozenset[str] = frozenset()
        self.learned = 0

    def owner(self, slot: int) -> str | None:
        return self.table.get(slot, "one")

    async def learn_owners(self) -> None:
        self.learned += 1

    async def report(self, address: str, devices: list[DevicePresence]) -> frozenset[str]:
        if address in self.away:
            raise RemoteServerError("away")
        self.reports.append((address, devices))
        return self.wrong


async def test_devices_are_reported_every_25_seconds_and_when_they_change() -> None:
    clock, owners = MockClock(), _Owners()
    reports = PresenceReports(owners, clock, enabled=True)

    async def due() -> list[tuple[str, str, str, int, int | None]]:
        owners.reports.clear()
        await reports.report_due()
        return [
            (address, one.user_id, one.set_presence, one.seen_ago_ms, one.active_ago_ms)
            for address, devices in owners.reports
            for one in devices
        ]

    with reports.syncing(UserId("@a:x"), "D", ""):
        assert await due() == [("one", "@a:x", "", 0, 0)]
        for _ in range(24):
            clock.advance(1)
            assert await due() == []
        clock.advance(1)
        assert await due() == [("one", "@a:x", "", 0, 25_000)]  # it still waits
        clock.advance(10)
    for _ in range(80):
        with reports.syncing(UserId("@a:x"), "D", ""):
            clock.advance(0.125)
    assert await due() == []
    clock.advance(5)
    assert await due() == [("one", "@a:x", "", 5_000, 50_000)]
    # Sent messages count as activity, but not each of them.
    for _ in range(10):
        reports.acted(UserId("@a:x"))
    assert len(await due()) == 1
    reports.acted(UserId("@a:x"))
    assert await due() == []
    with reports.syncing(UserId("@a:x"), "D", "unavailable"):
        assert await due() == [("one", "@a:x", "unavailable", 0, 0)]
    with reports.syncing(UserId("@a:x"), "D", "offline"):
        assert await due() == []  # it does not count beside the syncs that do
    # An unreachable owner, then a wrong one, then the new owner, who has no earlier report.
    owners.away = {"one"}
    with reports.syncing(UserId("@a:x"), "D", "online"):
        assert await due() == [] and owners.learned == 1
    owners.away, owners.wrong = set(), frozenset({"@a:x"})
    assert len(await due()) == 1 and owners.learned == 2
    owners.wrong, owners.table = frozenset(), {slot_of("@a:x"): "two"}
    assert [one[0] for one in await due()] == ["two"]
    owners.table = {slot_of("@b:x"): "three"}
    assert [one[0] for one in await due()] == ["one"]
    assert await due() == []
    clock.advance(26)
    assert await due() == [] and reports.size_bytes == 0  # disconnected, and forgotten
    assert PresenceReports(owners, clock, enabled=False).size_bytes == 0


async def test_reported_devices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.synchrotron.presence.reports._MAX_BYTES", 1_000)
    monkeypatch.setattr("workers.synchrotron.presence.reports._BATCH", 2)
    owners = _Owners()
    reports = PresenceReports(owners, MockClock(), enabled=True)
    for number in range(5):
        with reports.syncing(UserId(f"@{number}:x"), None, ""):
            pass
    await reports.report_due()
    assert [len(devices) for _, devices in owners.reports] == [2, 1]
    assert 1_000 <= reports.size_bytes < 1_500
    disabled = PresenceReports(owners, MockClock(), enabled=False)
    with disabled.syncing(UserId("@a:x"), "D", ""):
        assert disabled.size_bytes == 0
