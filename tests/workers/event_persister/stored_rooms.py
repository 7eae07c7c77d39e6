"""Stores the made-up rooms of the load scenarios in a real database."""

from typing import Any

import asyncpg

from load.state_resolution import MadeUpRoom
from shared.core.canonical_json import encode_canonical
from shared.core.events import Event


async def store_room(
    dsn: str,
    room: MadeUpRoom,
    room_nid: int,
    *,
    rejected: frozenset[str] = frozenset(),
    redacted: frozenset[str] = frozenset(),
    missing: frozenset[str] = frozenset(),
) -> None:
    """Replace the stored events of the room by all of its events except the missing ones."""
    nids = {event_id: room_nid * 1_000_000 + number for number, event_id in enumerate(room.events, 1)}
    columns = (
        "room_nid",
        "event_nid",
        "event_id",
        "writer",
        "position",
        "depth",
        "type",
        "state_key",
        "sender",
        "origin_server_ts",
        "status",
        "prev_nids",
        "auth_nids",
        "redacted_by",
        "json",
    )
    records: list[tuple[Any, ...]] = [
        (
            room_nid,
            nids[event.event_id],
            event.event_id,
            1,
            nids[event.event_id],
            event.depth,
            event.type,
            event.state_key,
            event.sender,
            event.origin_server_ts,
            2 if event.event_id in rejected else 0,
            [],
            [nids[cited] for cited in event.auth_event_ids],
            1 if event.event_id in redacted else None,
            encode_canonical(pdu(event)),
        )
        for event in room.events.values()
        if event.event_id not in missing
    ]
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("DELETE FROM events WHERE room_nid = $1", room_nid)
        await conn.copy_records_to_table("events", records=records, columns=columns)
    finally:
        await conn.close()


def pdu(event: Event) -> dict[str, object]:
    return {
        "auth_events": list(event.auth_event_ids),
        "content": dict(event.content),
        "depth": event.depth,
        "hashes": {"sha256": "A" * 43},
        "origin_server_ts": event.origin_server_ts,
        "prev_events": list(event.prev_event_ids),
        "room_id": event.room_id,
        "sender": event.sender,
        "signatures": {event.sender.partition(":")[2]: {"ed25519:1": "B" * 86}},
        "state_key": event.state_key,
        "type": event.type,
    }
