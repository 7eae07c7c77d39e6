"""Delayed events: their record, the actions on them, and their JSON form. Proposal: MSC4140."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from shared.core.identifiers import EventId, RoomId, UserId

Action: TypeAlias = Literal["restart", "send", "cancel"]
ACTIONS: tuple[Action, ...] = ("restart", "send", "cancel")

#: Delayed events are divided into this many parts. Each part is a row of `duties`, held by one background process.
SHARDS = 8


def shard_of(delay_id: str) -> int:
    return zlib.crc32(delay_id.encode()) % SHARDS


def sending_key(delay_id: str) -> bytes:
    """Return the key of the transaction that sends the event, so that a retry gets the first attempt's answer."""
    return hashlib.sha256(b"delayed event\0" + delay_id.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvent:
    """A delayed event as stored. Times are in ms, by the database's clock.

    content, error: JSON.
    sending: True while a process is sending it.
    finalised_ms: None while it is scheduled. Afterwards it was sent if there is an `event_id`, it failed if there is
        an `error`, and else it was cancelled.
    """

    delay_id: str
    user_id: UserId
    room_id: RoomId
    type: str
    state_key: str | None
    content: bytes
    sticky_ms: int | None
    delay_ms: int
    scheduled_ms: int
    sending: bool = False
    finalised_ms: int | None = None
    event_id: EventId | None = None
    error: bytes | None = None

    @property
    def due_ms(self) -> int:
        return self.scheduled_ms + self.delay_ms


def action_result(event: DelayedEvent, action: Action) -> Literal["done", "conflict", "sending", "possible"]:
    """Return whether an action on the event can be performed.

    done: the event was finalised in this way already.
    conflict: it was finalised in another way.
    sending: a process is sending it.
    Spec: MSC4140, "Managing scheduled delayed events": a repeated action succeeds, a contrary one is a conflict.
    """
    if event.finalised_ms is None:
        return "sending" if event.sending else "possible"
    if event.event_id is not None:
        return "done" if action == "send" else "conflict"
    return "done" if action == "cancel" else "conflict"


def delayed_event_to_json(event: DelayedEvent, *, older_names: bool) -> Mapping[str, Any]:
    """Return the event as its owner sees it. MSC4140, "Getting a single delayed event".

    older_names: True adds the names of former drafts, which clients on the unstable paths expect.
    """
    shown: dict[str, Any] = {
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.type,
        "delay_ms": event.delay_ms,
        "scheduled_at": event.scheduled_ms,
        "content": orjson.Fragment(event.content),
    }
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    if event.error is not None:
        shown["error"] = orjson.Fragment(event.error)
    if event.event_id is not None:
        shown["event_id"] = event.event_id
    if event.finalised_ms is not None:
        shown["finalised_ts"] = event.finalised_ms
    if older_names:
        shown |= {"delay": event.delay_ms, "running_since": event.scheduled_ms}
    return shown
