"""PURE: the parts of a room's section beside its events and account data: typing, receipts and unread counts."""

from collections.abc import Sequence
from typing import Any

from shared.core.filters import EventFilter
from shared.core.identifiers import UserId
from shared.core.unread import RoomCounts
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.typing_rooms import RoomTyping
from workers.synchrotron.sections.span import Span


def ephemeral_events(
    typing: RoomTyping | None,
    receipts: Sequence[ReceiptRecord],
    span: Span,
    *,
    ignored: frozenset[UserId],
    wanted: EventFilter,
    everything: bool,
) -> list[Any]:
    """Return the room's `ephemeral` events. everything: the client has none of them yet."""
    events: list[Any] = []
    if typing is not None and wanted.match_type("m.typing"):
        if everything:
            changed = bool(typing.until_ms)
        elif span.since_seq is not None:
            changed = typing.seq > span.since_seq
        else:
            changed = True  # another process may have sent the client any typing users
        if changed:
            events.append(typing_event(typing))
    if wanted.match_type("m.receipt"):
        events.extend(receipt_events(receipts, ignored))
    return events


def typing_event(typing: RoomTyping) -> dict[str, Any]:
    return {"type": "m.typing", "content": {"user_ids": list(typing.until_ms)}}


def new_receipts(room: CachedRoom, user_id: UserId, span: Span, *, everything: bool) -> Sequence[ReceiptRecord]:
    """Return the receipts of the response: public ones and the user's own. everything: with those before the span."""
    receipts = []
    now = span.now.vector("receipts")
    for receipt in reversed(room.receipts.values()):
        if not now.covers(receipt.writer, receipt.position):
            continue
        if not everything and not span.is_new("receipts", receipt.writer, receipt.position):
            if span.since_seq is not None:
                break  # receipts are in order of arrival: the client has the rest
            continue
        if receipt.kind == "m.read" or receipt.user_id == user_id:
            receipts.append(receipt)
    return receipts


def receipt_events(receipts: Sequence[ReceiptRecord], ignored: frozenset[UserId]) -> list[Any]:
    """Return one m.receipt per thread, since one event cannot hold a user's receipts of two threads at one event."""
    by_thread: dict[str, dict[str, Any]] = {}
    for receipt in receipts:
        if receipt.user_id in ignored:
            continue
        content = by_thread.setdefault(receipt.thread_id, {})
        data: dict[str, Any] = {"ts": receipt.ts_ms}
        if receipt.thread_id:
            data["thread_id"] = receipt.thread_id
        content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})[receipt.user_id] = data
    return [{"type": "m.receipt", "content": content} for content in by_thread.values()]


def unread_fields(counts: RoomCounts, wanted: EventFilter) -> dict[str, Any]:
    """Return the unread counts of a room's section. Threads are apart if the filter says so.

    Spec: client-server API, "Receiving notifications". A filter that uses the key from before v1.4 is answered with it.
    """
    key = wanted.thread_notifications_key
    if key is None:
        return {"unread_notifications": counts.all.as_json()}
    threads = {thread_id: count.as_json() for thread_id, count in counts.threads.items()}
    return {"unread_notifications": counts.main.as_json(), key: threads}
