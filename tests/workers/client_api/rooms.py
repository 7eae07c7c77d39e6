"""Rooms put straight into the tables, for endpoints that only read them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared.core.events.relation import relation_of
from tests.rigs.client_api import ClientApi

_nids = itertools.count(1)


async def put_room(
    worker: ClientApi, room_id: str, members: Mapping[str, str], *, creator: str = "@maker:example.org",
    power_levels: Mapping[str, Any] | None = None, history_visibility: str = "shared",
) -> int:  # fmt: skip
    """Make a room of version 10. members: user id -> membership. Returns its number."""
    room_nid = next(_nids)
    await worker.sql(
        "INSERT INTO rooms (room_nid, room_id, room_version, creator, created_ms) VALUES ($1, $2, '10', $3, 0)",
        room_nid, room_id, creator,
    )  # fmt: skip
    state = {
        "m.room.create": {"creator": creator, "room_version": "10"},
        "m.room.power_levels": dict(power_levels) if power_levels is not None else {"users": {creator: 100}},
        "m.room.history_visibility": {"history_visibility": history_visibility},
    }
    for ordinal, (kind, content) in enumerate(state.items(), 1):
        event_nid = await put_event(worker, room_nid, room_id, f"${kind}{room_nid}", ordinal, content, kind, "")
        await worker.sql(
            "INSERT INTO current_state (room_nid, type, state_key, event_nid, writer, position)"
            " VALUES ($1, $2, '', $3, 1, 1)",
            room_nid, kind, event_nid,
        )  # fmt: skip
    for user_id, membership in members.items():
        await worker.sql(
            "INSERT INTO memberships (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position,"
            " is_local) VALUES ($1, $2, $3, 1, $2, 1, 1, 1, $4)",
            room_nid, user_id, membership, user_id.endswith(":example.org"),
        )  # fmt: skip
    return room_nid


async def put_event(
    worker: ClientApi, room_nid: int, room_id: str, event_id: str, ordinal: int | None,
    content: Mapping[str, Any], kind: str = "m.room.message", state_key: str | None = None,
    *, depth: int | None = None, status: int = 0, prev: Sequence[str] = (), anchor: int | None = None,
) -> int:  # fmt: skip
    """Put one event into the room; returns its number. ordinal: None for one that is not live; anchor: of history."""
    event_nid = next(_nids)
    pdu: dict[str, Any] = {
        "type": kind, "room_id": room_id, "sender": "@maker:example.org", "content": dict(content),
        "depth": depth or ordinal or 1, "origin_server_ts": 1, "prev_events": list(prev), "auth_events": [],
        "hashes": {"sha256": "x"}, "signatures": {},
    }  # fmt: skip
    if state_key is not None:
        pdu["state_key"] = state_key
    relation = relation_of(content)
    await worker.sql(
        "INSERT INTO events (room_nid, event_nid, event_id, writer, position, ordinal, depth, type, state_key, sender,"
        " origin_server_ts, status, prev_nids, auth_nids, json, anchor, back, relates_to, rel_type)"
        " VALUES ($1, $2, $3, 1, $2, $4, $5, $6, $7, '@maker:example.org', 1, $8, '{}', '{}', $9, $10, $11, $12, $13)",
        room_nid, event_nid, event_id, ordinal, pdu["depth"], kind, state_key, status, orjson.dumps(pdu), anchor,
        None if anchor is None else 1, *((None, None) if relation is None else (relation.event_id, relation.rel_type)),
    )  # fmt: skip
    return event_nid
