"""One joined (or left) room of an answer of /sync: gathers what the pure parts need and joins their result.

In the usual case, a new message in a room that is in memory, nothing here asks Postgres.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.core.events.redaction import redact_pdu
from shared.core.filters import EventFilter, Filter
from shared.core.heroes import heroes_for
from shared.core.room_versions import RoomVersion
from shared.core.sticky_events import STICKY_KEY
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.unread import RoomCounts
from shared.rooms.aggregations import Bundles, bundle
from shared.rooms.place_tokens import format_place
from shared.rooms.shown_event import Reader, matches, shown_event
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.cached_room import CachedRoom, Held, StateKey
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.state_blocks import SharedEvents, StateBlock, StateBlocks
from workers.synchrotron.rooms.typing_rooms import RoomTyping, TypingRooms
from workers.synchrotron.sections.erased_forms import ErasedForms
from workers.synchrotron.sections.remembered_relatives import RememberedRelatives
from workers.synchrotron.sections.room_section import (
    Timeline,
    cut_timeline,
    give_way_to_changes,
    last_gap,
    needed_members,
    untold_changes,
)
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts

_DEFAULT_LIMIT = 20
_PAGE = 100
_MAX_PAGES = 5  # looked through for events that pass a filter; then the client pages on itself
_NO_PDUS: Mapping[int, Mapping[str, Any]] = {}
_IN_SUMMARY = frozenset({MEMBER, "m.room.name", "m.room.canonical_alias"})


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of the streams an answer tells. since None: all of it.

    since_seq: the number up to which this process knows that the client was told; None: unknown.
    """

    since: StreamToken | None
    now: StreamToken
    since_seq: int | None
    full_state: bool

    def is_new(self, stream: str, writer: int, position: int) -> bool:
        """Return whether a row belongs into the answer."""
        if not self.now.vector(stream).covers(writer, position):
            return False
        return self.since is None or not self.since.vector(stream).covers(writer, position)

    def changed(self, membership: RoomMembership) -> bool:
        """Return whether the membership is news."""
        return self.since is None or not self.since.vector("events").covers(membership.writer, membership.position)


@dataclass(slots=True)
class _Draft:
    """A room's section while it is gathered. changes: the last one of each key from the timeline's start on.

    block: the state, but for what `state` has, where others get the same.
    """

    room: CachedRoom
    view: Viewpoint
    timeline: Timeline
    changes: Mapping[StateKey, Held]
    state: dict[StateKey, TimelineEvent]
    end: int
    whole: bool
    summary: dict[str, Any] = field(default_factory=dict)
    block: StateBlock | None = None


class RoomSections:
    def __init__(
        self, rooms: RoomCache, typing: TypingRooms, unread: UnreadCounts, erased: ErasedForms, blocks: StateBlocks,
        sticky: StickySections, max_timeline_events: int,
    ) -> None:  # fmt: skip
        self._rooms = rooms
        self._sticky = sticky
        self._typing = typing
        self._unread = unread
        self._erased = erased
        self._blocks = blocks
        self._max_timeline_events = max_timeline_events

    def has_typing(self, room_id: str) -> bool:
        """Return whether anything is known of who types in the room."""
        return self._typing.get(room_id) is not None

    async def joined(
        self, user: SyncUser, membership: RoomMembership, span: Span, filter: Filter, reader: Reader,
        sent: SentMembers | None, *, state_after: str | None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Return the section of a room that the user is in, for `section_parts`; None when there is nothing to tell.

        sent: what lazy loading need not repeat; None: repeat all. state_after: see SyncRequest.
        """
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None
        end = await self._rooms.ordinal_at(room, span.now.vector("events"))
        base = await self.base(room, user, membership, span)
        draft = await self._draft(
            room, user, membership, base, end, filter, sent,
            whole=base is None or span.full_state, state_after=state_after,
        )  # fmt: skip
        new_here = base is None
        receipts = await self.fresh_receipts(room, user.user_id, span, everything=new_here)
        ephemeral = self._ephemeral(room, user, span, filter, receipts, everything=new_here)
        account_data = self._account_data(room, user, span, filter, everything=new_here)
        counts = await self._unread.of(user, room, end)
        # Also those that the timeline has in its span and the client's filter, or the limit, keeps from it.
        sticky = await self._sticky.events(room, user, draft.view, reader, base or 0, end, draft.timeline.shown)
        if not (
            new_here or span.full_state or draft.timeline.shown or draft.timeline.limited or draft.state
            or draft.summary or ephemeral or account_data or sticky
            # What is unread may have changed by what the client's filter hides.
            or any(receipt.user_id == user.user_id for receipt in receipts)
            or self._unread.news(user, room, base or 0, end)
        ):  # fmt: skip
            return None
        section = await self._events_part(draft, user, filter, reader, state_after=state_after)
        section["summary"] = draft.summary
        section["ephemeral"] = {"events": ephemeral}
        section["account_data"] = {"events": account_data}
        if sticky:
            section[STICKY_KEY] = {"events": sticky}
        section.update(unread_parts(counts, filter.room.timeline))
        return section

    async def left(
        self, user: SyncUser, membership: RoomMembership, span: Span, filter: Filter, reader: Reader,
        sent: SentMembers | None, *, state_after: str | None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Return the section of a room that the user left, was kicked or banned from: up to that moment."""
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None
        base = None if span.since is None else await self._rooms.ordinal_at(room, span.since.vector("events"))
        end = membership.ordinal
        if base is not None and base >= end:
            base = end - 1
        draft = await self._draft(
            room, user, membership, base, end, filter, sent,
            whole=base is None or span.full_state, state_after=state_after,
        )  # fmt: skip
        section = await self._events_part(draft, user, filter, reader, state_after=state_after)
        section["account_data"] = {"events": self._account_data(room, user, span, filter, everything=base is None)}
        return section

    async def base(self, room: CachedRoom, user: SyncUser, membership: RoomMembership, span: Span) -> int | None:
        """Return the ordinal up to which the client knows the room; None when the room is new to it."""
        if span.since is None:
            return None
        base = await self._rooms.ordinal_at(room, span.since.vector("events"))
        if not span.changed(membership):
            return base
        history = await self._rooms.member_history(room, user.user_id, base)
        before = [value for ordinal, value in history if ordinal <= base]
        return base if before and before[-1] == "join" else None

    async def _draft(
        self, room: CachedRoom, user: SyncUser, membership: RoomMembership, base: int | None, end: int,
        filter: Filter, sent: SentMembers | None, *, whole: bool, state_after: str | None,
    ) -> _Draft:  # fmt: skip
        above = base or 0
        wanted = filter.room.timeline
        limit = min(_DEFAULT_LIMIT if wanted.limit is None else wanted.limit, self._max_timeline_events)
        view, timeline = await self.timeline(room, user, membership, above=above, end=end, limit=limit, wanted=wanted)
        changes = await self._rooms.last_changes(room, timeline.start - 1, end)
        if not state_after:
            timeline = give_way_to_changes(timeline, changes)
        draft = _Draft(room, view, timeline, changes, {}, end, whole)
        await self._rooms.add_previous(room, timeline.shown)
        if membership.membership == "join":
            await self._add_summary(draft, user.user_id, above)
        draft.block = await self._shared_state(draft, filter, state_after=state_after) if whole else None
        if draft.block is not None:
            draft.state = {event.key: event for event in draft.block.own if event.key is not None}
        elif draft.view.state_is_open:
            wanted = filter.room.state
            await self._add_state(draft, user.user_id, above, wanted, sent, state_after=state_after)
        else:
            await self._add_end(draft, user.user_id, state_after=state_after)
        return draft

    async def timeline(
        self, room: CachedRoom, user: SyncUser, membership: RoomMembership, *, above: int, end: int, limit: int,
        wanted: EventFilter,
    ) -> tuple[Viewpoint, Timeline]:  # fmt: skip
        """Return what the user sees of the room's events above one ordinal and up to another, the latest `limit`."""
        ignored = user.ignored_users
        events = room.events_between(above, end)
        complete = room.has_from(above + 1)
        for _ in range(_MAX_PAGES):
            lowest = events[0].ordinal if events else end + 1
            view = await self._view(room, user.user_id, membership, lowest)

            def passes(event: TimelineEvent, view: Viewpoint = view) -> bool:
                if event.sender in ignored and event.state_key is None:
                    return False
                return matches(wanted, event, room.room_id) and view.may_see(event)

            timeline = cut_timeline(events, passes, limit=limit, above=above, complete=complete, end=end)
            if complete or len(timeline.shown) >= limit or last_gap(events) is not None:
                break
            older = await self._rooms.events_before(room, lowest, _PAGE)
            complete = len(older) < _PAGE or older[0].ordinal <= above + 1
            events = [event for event in older if event.ordinal > above] + events
        return view, timeline

    async def _view(self, room: CachedRoom, user_id: str, membership: RoomMembership, lowest: int) -> Viewpoint:
        joined = membership.membership == "join"
        if joined and membership.ordinal < lowest:
            return Viewpoint(user_id, room.visibility, (), joined_throughout_from=membership.ordinal)
        history = await self._rooms.member_history(room, user_id, lowest)
        return Viewpoint(
            user_id, room.visibility, history,
            joined_throughout_from=membership.ordinal if joined else None,
            end=None if joined else membership.ordinal,
        )  # fmt: skip

    async def _add_summary(self, draft: _Draft, user_id: str, above: int) -> None:
        """Spec: GET /sync, RoomSummary; only when it may have changed."""
        if not draft.whole:
            changes = draft.room.changes_between(above, draft.end)
            if changes is not None and not any(held.key[0] in _IN_SUMMARY for held in changes):
                return
        record = await self._rooms.summary(draft.room)
        draft.summary = {
            "m.heroes": heroes_for(user_id, record.first),
            "m.joined_member_count": record.joined,
            "m.invited_member_count": record.invited,
        }

    async def _shared_state(self, draft: _Draft, filter: Filter, *, state_after: str | None) -> StateBlock | None:
        """Return the room's whole state as others get it too; None where this reader's is, or may be, another."""
        wanted = filter.room.state
        if wanted.lazy_load_members or not wanted.passes_all or filter.event_fields is not None:
            return None
        if filter.federation_format or not draft.view.state_is_open or not draft.view.sees_everything:
            return None
        if not state_after and untold_changes(draft.timeline, draft.changes):
            return None
        block = await self._blocks.get(draft.room, draft.end + 1 if state_after else draft.timeline.start)
        return None if await self._erased.is_any(block.senders) else block

    async def _add_state(
        self, draft: _Draft, user_id: str, above: int, wanted: EventFilter, sent: SentMembers | None,
        *, state_after: str | None,
    ) -> None:  # fmt: skip
        room, timeline = draft.room, draft.timeline
        place = draft.end + 1 if state_after else timeline.start
        lazy = wanted.lazy_load_members
        if draft.whole:
            state = await self._rooms.state_before(room, place, members=not lazy)
        elif place > above + 1:
            changed = await self._rooms.last_changes(room, above, place - 1)
            state = {key: held.event for key, held in changed.items() if held.event is not None}
        else:
            state = {}
        untold = {} if state_after else untold_changes(timeline, draft.changes)
        for key, now in untold.items():
            if now is not None:
                state[key] = now
            else:
                state.pop(key, None)
        if lazy:
            own = user_id if draft.whole else None
            needed = needed_members(timeline, draft.summary.get("m.heroes", ()), own, state.keys() | untold.keys())
            for key, event in (await self._rooms.keys_before(room, place, needed)).items():
                if sent is None or not sent.is_redundant(room.room_id, key[1], event.event_id):
                    state[key] = event
            if sent is not None:
                # With `state_after` the timeline tells the client nothing about the state.
                for event in (*(() if state_after else timeline.shown), *state.values()):
                    if event.type == MEMBER and event.state_key is not None:
                        sent.note(room.room_id, event.state_key, event.event_id)
        if not wanted.passes_all:
            state = {key: event for key, event in state.items() if matches(wanted, event, room.room_id)}
        draft.state = state

    async def _add_end(self, draft: _Draft, user_id: str, *, state_after: str | None) -> None:
        """Add what somebody may know of the state who never was in the room: an invitation declined, or taken back.

        That is what his timeline shows of it, and how it ended, should state resolution have ended it.
        """
        shown = {event.key: event for event in draft.timeline.shown if event.key is not None}
        draft.state = dict(shown) if state_after else {}
        last = (await self._rooms.last_changes(draft.room, draft.end - 1, draft.end)).get((MEMBER, user_id))
        if last is not None and last.event is not None and last.key not in shown:
            draft.state[last.key] = last.event

    async def _events_part(
        self, draft: _Draft, user: SyncUser, filter: Filter, reader: Reader, *, state_after: str | None
    ) -> dict[str, Any]:
        view, timeline = draft.view, draft.timeline
        whole = (*timeline.shown, *draft.state.values())
        shown = await self._erased.shown(draft.room, view, whole)
        state = shown[len(timeline.shown) :]
        pdus: Mapping[int, Mapping[str, Any]] = {}
        if filter.federation_format:  # the slow way: memory holds the clients' form only
            pdus = await self._rooms.pdus(draft.room, whole)
            if shown is not whole:
                pdus = _stripped_too(draft.room.version, pdus, whole, shown)
        told = [shown_event(event, reader, view, in_state=True, pdu=pdus.get(event.event_nid)) for event in state]
        return {
            state_after or "state": {"events": told} if draft.block is None else SharedEvents(draft.block.pieces, told),
            "timeline": {
                "events": await self.shown_timeline(
                    draft.room, view, timeline, draft.end, user, reader, whole=draft.whole, pdus=pdus
                ),
                "limited": timeline.limited,
                "prev_batch": format_place(timeline.start),
            },
        }

    async def shown_timeline(
        self, room: CachedRoom, view: Viewpoint, timeline: Timeline, end: int, user: SyncUser, reader: Reader, *,
        whole: bool, pdus: Mapping[int, Mapping[str, Any]] = _NO_PDUS,
    ) -> list[orjson.Fragment]:  # fmt: skip
        """Return the timeline's events as this reader gets them. whole: he knows nothing of the room before them."""
        bundles: Bundles = {}
        if timeline.shown and (timeline.limited or whole):
            # Otherwise the client has, or gets right now, all that relates to what it is told.
            relatives = RememberedRelatives(
                self._rooms, self._erased, room, view, user.ignored_users, end, timeline.shown[0].ordinal
            )  # fmt: skip
            bundles = await bundle(timeline.shown, relatives, reader)
        return [
            shown_event(event, reader, view, pdu=pdus.get(event.event_nid), relations=bundles.get(event.event_nid))
            for event in await self._erased.shown(room, view, timeline.shown)
        ]

    async def shown_state(
        self, room: CachedRoom, view: Viewpoint, state: Sequence[TimelineEvent], reader: Reader
    ) -> list[orjson.Fragment]:
        """Return state events as this reader gets them."""
        events = await self._erased.shown(room, view, state)
        return [shown_event(event, reader, view, in_state=True) for event in events]

    def _ephemeral(
        self, room: CachedRoom, user: SyncUser, span: Span, filter: Filter, receipts: Sequence[ReceiptRecord], *,
        everything: bool,
    ) -> list[Any]:  # fmt: skip
        wanted = filter.room.ephemeral
        events: list[Any] = []
        if not wanted.match_room(room.room_id):
            return events
        typing = self._typing.get(room.room_id)
        if typing is not None and wanted.match_type("m.typing"):
            if everything:
                news = bool(typing.until_ms)
            elif span.since_seq is not None:
                news = typing.seq > span.since_seq
            else:
                news = True  # the client may have been told anything by another process
            if news:
                events.append(typing_event(typing))
        if wanted.match_type("m.receipt"):
            events.extend(receipt_events(receipts, user.ignored_users))
        return events

    async def fresh_receipts(
        self, room: CachedRoom, user_id: str, span: Span, *, everything: bool
    ) -> Sequence[ReceiptRecord]:
        """Return the receipts that belong into the answer; of the private ones the user's own. everything: also old."""
        fresh = []
        now = span.now.vector("receipts")
        for receipt in reversed(room.receipts.values()):
            if not now.covers(receipt.writer, receipt.position):
                continue
            if not everything and not span.is_new("receipts", receipt.writer, receipt.position):
                if span.since_seq is not None:
                    break  # in the order in which they came here: the rest has been told
                continue
            if receipt.kind == "m.read" or receipt.user_id == user_id:
                fresh.append(receipt)
        return fresh

    @staticmethod
    def _account_data(room: CachedRoom, user: SyncUser, span: Span, filter: Filter, *, everything: bool) -> list[Any]:
        return account_data_events(user, room.room_id, span, filter.room.account_data, everything=everything)


def _stripped_too(
    version: RoomVersion,
    pdus: Mapping[int, Mapping[str, Any]],
    whole: Sequence[TimelineEvent],
    shown: Sequence[TimelineEvent],
) -> Mapping[int, Mapping[str, Any]]:
    """Return the PDUs, those redacted that the reader may not see whole."""
    stripped = {event.event_nid for event, form in zip(whole, shown, strict=True) if form.body is not event.body}
    return {nid: redact_pdu(version, pdu) if nid in stripped else pdu for nid, pdu in pdus.items()}


def account_data_events(
    user: SyncUser, room_id: str, span: Span, wanted: EventFilter, *, everything: bool
) -> list[Any]:
    """Return the account data of one room (or "") that belongs into the answer.

    What was deleted is told once, as an empty content.
    """
    events: list[Any] = []
    records = user.account_data.get(room_id)
    if not records or (room_id and not wanted.match_room(room_id)):
        return events
    for record in records.values():
        if everything or span.since is None:
            fresh = record.json is not None and span.now.vector("account_data").covers(record.writer, record.position)
        else:
            fresh = span.is_new("account_data", record.writer, record.position)
        if fresh and wanted.match_type(record.type):
            events.append({"type": record.type, "content": orjson.Fragment(record.json or b"{}")})
    return events


def unread_parts(counts: RoomCounts, wanted: EventFilter) -> dict[str, Any]:
    """Return what a room's section says of unread events. Threads are told apart for who asks for that.

    Spec: client-server API, "Receiving notifications"; the key that the filter had before v1.4 is answered by its own.
    """
    key = wanted.thread_notifications_key
    if key is None:
        return {"unread_notifications": counts.all.as_json()}
    threads = {thread_id: count.as_json() for thread_id, count in counts.threads.items()}
    return {"unread_notifications": counts.main.as_json(), key: threads}


def typing_event(typing: RoomTyping) -> dict[str, Any]:
    return {"type": "m.typing", "content": {"user_ids": list(typing.until_ms)}}


def receipt_events(receipts: Sequence[ReceiptRecord], ignored: frozenset[str]) -> list[Any]:
    """Return one m.receipt per thread: a user's receipts of two threads on one event would hide one another."""
    by_thread: dict[str, dict[str, Any]] = {}
    for receipt in receipts:
        if receipt.user_id in ignored:
            continue
        content = by_thread.setdefault(receipt.thread_id, {})
        told: dict[str, Any] = {"ts": receipt.ts_ms}
        if receipt.thread_id:
            told["thread_id"] = receipt.thread_id
        content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})[receipt.user_id] = told
    return [{"type": "m.receipt", "content": content} for content in by_thread.values()]
