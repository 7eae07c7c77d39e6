"""The memory of decoded events: pages always show the stored events, and it is bounded."""

import asyncio
from typing import Any

import orjson

from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import get_room_version
from shared.rooms.event_memory import EventMemory
from shared.storage.events.timeline import TimelineRow
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, fleet
from tests.workers.synchrotron.test_erased_sync import erase

VERSION = get_room_version("11")


def _row(nid: int, text: str = "x") -> TimelineRow:
    pdu = {
        "type": "m.room.message",
        "sender": "@a:b",
        "room_id": "!r:b",
        "content": {"body": text},
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
    }
    return TimelineRow(
        event_nid=nid,
        event_id=EventId(f"${nid}"),
        writer=1,
        position=1,
        ordinal=1,
        replaces_nid=None,
        txn_device=None,
        txn_id=None,
        json=orjson.dumps(pdu),
        redaction_nid=None,
        redaction_id=None,
        redaction_ordinal=0,
        redaction_json=None,
        redaction_redacted=False,
        previous_id=None,
        previous_ordinal=None,
        previous_json=None,
        previous_redacted=False,
        back=0,
        state_nid=None,
        gap=False,
    )


def test_memory_answers_for_an_identical_row_only() -> None:
    memory = EventMemory(1 << 20)
    first = memory.event(VERSION, _row(1))
    assert memory.event(VERSION, _row(1)) is first
    redaction = _row(2)
    row = _row(1)._replace(redaction_nid=2, redaction_id=redaction.event_id, redaction_json=redaction.json)
    redacted = memory.event(VERSION, row)
    assert redacted.redacted_because is not None and redacted.content() == {}
    assert first.content() == {"body": "x"}
    assert memory.event(VERSION, _row(1)).content() == {"body": "x"}


def test_memory_keeps_the_latest_events_within_its_budget() -> None:
    memory = EventMemory(10_000)
    events = [memory.event(VERSION, _row(nid)) for nid in range(1, 101)]
    again = [memory.event(VERSION, _row(nid)) for nid in range(100, 0, -1)]
    kept = sum(one is other for one, other in zip(events, reversed(again), strict=True))
    assert 2 <= kept <= 10
    too_large = _row(200, "x" * 20_000)
    assert memory.event(VERSION, too_large).content() == {"body": "x" * 20_000}
    assert memory.event(VERSION, _row(201)) is memory.event(VERSION, _row(201))


async def _page(client: Client, room_id: RoomId) -> dict[str, Any]:
    page = await client.room(room_id, "messages", dir="b", limit=100)
    return {event["event_id"]: event for event in page.json["chunk"]}


async def test_pages_show_the_stored_events_to_each_reader(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, eve = (world.user(name) for name in ("alice", "bob", "eve"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        gone, said = [(await bob.writes.send(room_id, text)).event_id for text in ("gone", "said")]
        before = await _page(alice, room_id)
        assert before[gone]["content"]["body"] == "gone"
        await bob.writes.redact(room_id, gone)
        await alice.writes.call(
            "PUT",
            f"/rooms/{room_id}/send/m.room.message/edit",
            {"msgtype": "m.text", "body": "*", "m.relates_to": {"rel_type": "m.reference", "event_id": said}},
        )
        after = await _page(alice, room_id)
        assert after[gone]["content"] == {} and "redacted_because" in after[gone]["unsigned"]
        assert len(after[said]["unsigned"]["m.relations"]["m.reference"]["chunk"]) == 1
        await bob.writes.act(room_id, "leave")
        await erase(world, bob)
        await eve.writes.act(room_id, "join")
        await asyncio.gather(_page(alice, room_id), _page(eve, room_id))
        assert (await _page(eve, room_id))[said]["content"] == {}
        assert (await _page(alice, room_id))[said]["content"]["body"] == "said"
