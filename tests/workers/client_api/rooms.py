"""Rooms written straight into the tables, for endpoints that only read them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.events.relation import relation_of
from shared.core.identifiers import EventId, RoomId, UserId
from tests.rigs.client_api import ClientApi

_CREATOR = "@maker:example.org"
_nids = itertools.count(1)


@dataclass(frozen=True)
class StoredRoom:
    worker: ClientApi
    room_id: RoomId
    nid: int

    async def put_event(
        self,
        event_id: EventId,
        ordinal: int | None,
        content: Mapping[str, Any],
        type_: str = "m.room.message",
        state_key: str | None = None,
        *,
        status: int = 0,
        anchor: int | None = None,
    ) -> int:
        """Insert one event, and return its number.

        ordinal: None for an event that is not live.
        anchor: the ordinal of the live event that history hangs on.
        """
        event_nid = next(_nids)
        depth = ordinal or 1
        pdu: dict[str, Any] = {
            "type": type_,
            "room_id": self.room_id,
            "sender": _CREATOR,
            "content": dict(content),
            "depth": depth,
            "origin_server_ts": 1,
            "prev_events": [],
            "auth_events": [],
            "hashes": {"sha256": "x"},
            "signatures": {},
        }
        if state_key is not None:
            pdu["state_key"] = state_key
        relation = relation_of(content)
        columns = {
            "room_nid": self.nid,
            "event_nid": event_nid,
            "event_id": event_id,
            "writer": 1,
            "position": event_nid,
            "ordinal": ordinal,
            "depth": depth,
            "type": type_,
            "state_key": state_key,
            "sender": _CREATOR,
            "origin_server_ts": 1,
            "status": status,
            "prev_nids": [],
            "auth_nids": [],
            "json": orjson.dumps(pdu),
            "anchor": anchor,
            "back": None if anchor is None else 1,
            "relates_to": relation and relation.event_id,
            "rel_type": relation and relation.rel_type,
        }
        await _insert(self.worker, "events", columns)
        return event_nid


async def put_room(
    worker: ClientApi,
    room_id: RoomId,
    members: Mapping[UserId, str],
    *,
    power_levels: Mapping[str, Any] | None = None,
    history_visibility: str = "shared",
) -> StoredRoom:
    """Insert a room of version 10. members: user id -> membership."""
    room = StoredRoom(worker, room_id, next(_nids))
    columns = {"room_nid": room.nid, "room_id": room_id, "room_version": "10", "creator": _CREATOR, "created_ms": 0}
    await _insert(worker, "rooms", columns)
    state = {
        "m.room.create": {"creator": _CREATOR, "room_version": "10"},
        "m.room.power_levels": dict(power_levels) if power_levels is not None else {"users": {_CREATOR: 100}},
        "m.room.history_visibility": {"history_visibility": history_visibility},
    }
    for ordinal, (type_, content) in enumerate(state.items(), 1):
        event_nid = await room.put_event(EventId(f"${type_}{room.nid}"), ordinal, content, type_, "")
        columns = {"room_nid": room.nid, "type": type_, "state_key": "", "event_nid": event_nid}
        await _insert(worker, "current_state", columns | {"writer": 1, "position": 1})
    for user_id, membership in members.items():
        columns = {
            "room_nid": room.nid,
            "user_id": user_id,
            "membership": membership,
            "event_nid": 1,
            "sender": user_id,
            "ordinal": 1,
            "writer": 1,
            "position": 1,
            "is_local": user_id.endswith(":example.org"),
        }
        await _insert(worker, "memberships", columns)
    return room


async def _insert(worker: ClientApi, table: str, columns: Mapping[str, Any]) -> None:
    numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await worker.sql(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({numbers})", *columns.values())
