"""PURE: what is known of delayed events, and in which words clients are told. Proposal: MSC4140."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

Action: TypeAlias = Literal["restart", "send", "cancel"]
ACTIONS: tuple[Action, ...] = ("restart", "send", "cancel")

#: Parts into which they are dealt among the processes that send them; each is a row of `duties`.
SHARDS = 8
#: The `txn_device` of an event that was delayed: its `txn_id` is the delay id then, for all of the sender's devices.
DELAYED = ""


def shard_of(delay_id: str) -> int:
    return zlib.crc32(delay_id.encode()) % SHARDS


def sending_key(delay_id: str) -> bytes:
    """Return the key of the transaction in which the event is sent: whoever sends it again gets the first answer."""
    return hashlib.sha256(b"delayed event\0" + delay_id.encode()).digest()


@dataclass(frozen=True, slots=True)
class DelayedEvent:
    """content: JSON. due_ms: when it is, or was, to be sent; times in ms, the database's. error: JSON.

    sending: somebody is at it just now. finalised_ms: None while it is scheduled; then with an event_id it was sent,
    with an error it could not be, with neither it was cancelled.
    """

    delay_id: str
    user_id: str
    room_id: str
    type: str
    state_key: str | None
    content: bytes
    sticky_ms: int | None
    delay_ms: int
    scheduled_ms: int
    sending: bool = False
    finalised_ms: int | None = None
    event_id: str | None = None
    error: bytes | None = None

    @property
    def due_ms(self) -> int:
        return self.scheduled_ms + self.delay_ms


def verdict_on(event: DelayedEvent, action: Action) -> Literal["done", "conflict", "sending", "possible"]:
    """Return what an action on this event comes to. done, conflict: it was finalised this way, or the other.

    MSC4140, "Managing scheduled delayed events": a repeated action succeeds, a contrary one is a conflict.
    """
    if event.finalised_ms is None:
        return "sending" if event.sending else "possible"
    if event.event_id is not None:
        return "done" if action == "send" else "conflict"
    return "done" if action == "cancel" else "conflict"


def shown_delayed_event(event: DelayedEvent, *, older_names: bool) -> Mapping[str, Any]:
    """Return the event as its owner is told of it. MSC4140, "Getting a single delayed event".

    older_names: with the names of former drafts as well, which clients that use the unstable paths look for.
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
