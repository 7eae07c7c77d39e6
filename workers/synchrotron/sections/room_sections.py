"""One joined or left room of a sync response. Spec: client-server API, GET /sync, JoinedRoom, LeftRoom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.core.events.redaction import redact_pdu
from shared.core.filters import Filter
from shared.core.heroes import heroes_for
from shared.core.identifiers import UserId
from shared.core.room_versions import RoomVersion
from shared.core.sticky_events import STICKY_KEY
from shared.rooms.history_tokens import format_point
from shared.rooms.shown_event import Reader, matches, shown_event
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.rooms.memberships import RoomMembership
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.cached_room import CachedRoom, StateEntry, StateKey
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.rooms.state_blocks import SharedEvents, StateBlock, StateBlocks
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.account_data import account_data_events
from workers.synchrotron.sections.erased_senders import ErasedSenders
from workers.synchrotron.sections.room_extras import ephemeral_events, new_receipts, unread_fields
from workers.synchrotron.sections.span import Span
from workers.synchrotron.sections.sticky_section import StickySections
from workers.synchrotron.sections.timeline import (
    Timeline,
    needed_members,
    unshown_changes,
    without_stale_state,
)
from workers.synchrotron.sections.timelines import RoomTimelines
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts

_DEFAULT_LIMIT = 20
_NO_PDUS: Mapping[int, Mapping[str, Any]] = {}
_NAME, _ALIAS = ("m.room.name", ""), ("m.room.canonical_alias", "")
_NAMING = (_NAME, _ALIAS)
_IN_SUMMARY = frozenset({MEMBER, "m.room.name", "m.room.canonical_alias"})


@dataclass(slots=True, kw_only=True)
class SectionContext:
    """The context that the sections of all rooms in a response share."""

    user: SyncUser
    span: Span
    filter: Filter
    reader: Reader
    #: Member events that lazy loading need not repeat. None: repeat all.
    sent: SentMembers | None
    #: See `SyncRequest`.
    state_after: str | None


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A room's section while it is built."""

    room: CachedRoom
    view: Viewpoint
    timeline: Timeline
    #: The last change of each key from the timeline's start on.
    changes: Mapping[StateKey, StateEntry]
    #: The ordinals after which the section begins and at which it ends.
    above: int
    end: int
    #: True if the section has the whole state.
    whole: bool
    state: dict[StateKey, TimelineEvent] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    #: The state, but for the events in `state`, where other readers get the same bytes.
    block: StateBlock | None = None


class RoomSections:
    """Builds the sections of rooms."""

    def __init__(
        self,
        *,
        rooms: RoomCache,
        lookups: RoomLookups,
        timelines: RoomTimelines,
        typing: TypingRooms,
        unread: UnreadCounts,
        erased: ErasedSenders,
        blocks: StateBlocks,
        sticky: StickySections,
        max_timeline_events: int,
    ) -> None:
        self._rooms = rooms
        self._lookups = lookups
        self._timelines = timelines
        self._sticky = sticky
        self._typing = typing
        self._unread = unread
        self._erased = erased
        self._blocks = blocks
        self._max_timeline_events = max_timeline_events

    async def joined(self, context: SectionContext, membership: RoomMembership) -> dict[str, Any] | None:
        """Return the section of a joined room, for `section_parts`; None if it has no updates."""
        user, span, wanted = context.user, context.span, context.filter.room
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None
        end = await self._lookups.ordinal_at(room, span.now.vector("events"))
        base = await self._timelines.known_up_to(room, user, membership, span)
        draft = await self._draft(context, room, membership, base=base, end=end)
        is_new = base is None
        receipts = new_receipts(room, user.user_id, span, everything=is_new)
        ephemeral = self._ephemeral(context, room, receipts, everything=is_new)
        account_data = account_data_events(user, room.room_id, span, wanted.account_data, everything=is_new)
        counts = await self._unread.of(user, room, end)
        # Sticky events that a filter or limit keeps out of the timeline are included.
        sticky = await self._sticky.events(
            room, user, draft.view, context.reader, above=base or 0, end=end, shown=draft.timeline.shown
        )
        if not (
            is_new
            or span.full_state
            or draft.timeline.shown
            or draft.timeline.limited
            or draft.state
            or draft.summary
            or ephemeral
            or account_data
            or sticky
            # Events that the filter hides may have changed the unread counts.
            or any(receipt.user_id == user.user_id for receipt in receipts)
            or self._unread.may_have_changed(user, room, base or 0, end)
        ):
            return None
        section = await self._event_fields(context, draft)
        section["summary"] = draft.summary
        section["ephemeral"] = {"events": ephemeral}
        section["account_data"] = {"events": account_data}
        if sticky:
            section[STICKY_KEY] = {"events": sticky}
        section.update(unread_fields(counts, wanted.timeline))
        return section

    async def left(self, context: SectionContext, membership: RoomMembership) -> dict[str, Any] | None:
        """Return the section of a room that the user left, or was kicked or banned from, up to that event."""
        user, span = context.user, context.span
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None
        end = membership.ordinal
        base = await self._timelines.left_known_up_to(room, user, span, end)
        draft = await self._draft(context, room, membership, base=base, end=end)
        section = await self._event_fields(context, draft)
        wanted = context.filter.room.account_data
        events = account_data_events(user, room.room_id, span, wanted, everything=base is None)
        section["account_data"] = {"events": events}
        return section

    async def _draft(
        self, context: SectionContext, room: CachedRoom, membership: RoomMembership, *, base: int | None, end: int
    ) -> _Draft:
        above = base or 0
        wanted = context.filter.room.timeline
        limit = min(_DEFAULT_LIMIT if wanted.limit is None else wanted.limit, self._max_timeline_events)
        view, timeline = await self._timelines.cut(
            room, context.user, membership, above=above, end=end, limit=limit, wanted=wanted
        )
        changes = await self._lookups.last_changes(room, timeline.start - 1, end)
        if not context.state_after:
            timeline = without_stale_state(timeline, changes)
        draft = _Draft(
            room=room,
            view=view,
            timeline=timeline,
            changes=changes,
            above=above,
            end=end,
            whole=base is None or context.span.full_state,
        )
        await self._lookups.load_previous(room, timeline.shown)
        if membership.membership == "join":
            await self._add_summary(draft, context.user.user_id)
        draft.block = await self._shared_state(context, draft) if draft.whole else None
        if draft.block is not None:
            draft.state = {event.key: event for event in draft.block.own if event.key is not None}
        elif draft.view.state_is_open:
            await self._add_state(context, draft)
        else:
            await self._add_invitation_end(context, draft)
        return draft

    async def _add_summary(self, draft: _Draft, user_id: UserId) -> None:
        """Add the summary if it may have changed. Spec: GET /sync, RoomSummary."""
        if not draft.whole:
            changes = draft.room.changes_between(draft.above, draft.end)
            if changes is not None and not any(entry.key[0] in _IN_SUMMARY for entry in changes):
                return
        record = await self._lookups.summary(draft.room)
        draft.summary = {"m.joined_member_count": record.joined, "m.invited_member_count": record.invited}
        # Clients name a room after its heroes only without them, and lazy loading sends the heroes' member events.
        if not await self._has_name(draft):
            draft.summary["m.heroes"] = heroes_for(user_id, record.first)

    async def _has_name(self, draft: _Draft) -> bool:
        """Return True if the room has a name or a canonical alias."""
        found = await self._lookups.keys_before(draft.room, draft.end + 1, _NAMING)
        fields = [(found.get(_NAME), "name"), (found.get(_ALIAS), "alias")]
        return any(event is not None and _is_text(event.content().get(field)) for event, field in fields)

    async def _shared_state(self, context: SectionContext, draft: _Draft) -> StateBlock | None:
        """Return the room's whole state as shared with other readers; None if this reader's may differ."""
        filter, state_after = context.filter, context.state_after
        wanted = filter.room.state
        if wanted.lazy_load_members or not wanted.passes_all or filter.event_fields is not None:
            return None
        if filter.federation_format or not draft.view.state_is_open or not draft.view.sees_everything:
            return None
        if not state_after and unshown_changes(draft.timeline, draft.changes):
            return None
        block = await self._blocks.get(draft.room, draft.end + 1 if state_after else draft.timeline.start)
        if draft.view.end is not None and block.redacted_at > draft.view.end:
            return None
        return None if await self._erased.is_any(block.senders) else block

    async def _add_state(self, context: SectionContext, draft: _Draft) -> None:
        room, timeline, state_after = draft.room, draft.timeline, context.state_after
        wanted = context.filter.room.state
        before = draft.end + 1 if state_after else timeline.start
        if draft.whole:
            state = await self._lookups.state_before(room, before, members=not wanted.lazy_load_members)
        elif before > draft.above + 1:
            changed = await self._lookups.last_changes(room, draft.above, before - 1)
            state = {key: entry.event for key, entry in changed.items() if entry.event is not None}
        else:
            state = {}
        unshown = {} if state_after else unshown_changes(timeline, draft.changes)
        for key, event in unshown.items():
            if event is not None:
                state[key] = event
            else:
                state.pop(key, None)
        if wanted.lazy_load_members:
            own = context.user.user_id if draft.whole else None
            heroes = draft.summary.get("m.heroes", ())
            await self._add_lazy_members(
                context, draft, state, before, needed_members(timeline, heroes, own, state.keys() | unshown.keys())
            )
        if not wanted.passes_all:
            state = {key: event for key, event in state.items() if matches(wanted, event, room.room_id)}
        draft.state = state

    async def _add_lazy_members(
        self,
        context: SectionContext,
        draft: _Draft,
        state: dict[StateKey, TimelineEvent],
        before: int,
        needed: Sequence[StateKey],
    ) -> None:
        room, sent = draft.room, context.sent
        # With the whole state a client starts from scratch, or asks for what it has already.
        known = None if draft.whole else sent
        for key, event in (await self._lookups.keys_before(room, before, needed)).items():
            if known is None or not known.is_redundant(room.room_id, UserId(key[1]), event.event_id):
                state[key] = event
        if sent is not None:
            # With `state_after` a client does not apply the timeline to its state.
            for event in (*(() if context.state_after else draft.timeline.shown), *state.values()):
                if event.type == MEMBER and event.state_key is not None:
                    sent.note(room.room_id, UserId(event.state_key), event.event_id)

    async def _add_invitation_end(self, context: SectionContext, draft: _Draft) -> None:
        """Add the state that a user may know who never was in the room: their declined or withdrawn invitation.

        That is what their timeline shows of it, and its end if state resolution ended it.
        """
        shown = {event.key: event for event in draft.timeline.shown if event.key is not None}
        draft.state = dict(shown) if context.state_after else {}
        changes = await self._lookups.last_changes(draft.room, draft.end - 1, draft.end)
        last = changes.get((MEMBER, context.user.user_id))
        if last is not None and last.event is not None and last.key not in shown:
            draft.state[last.key] = last.event

    async def _event_fields(self, context: SectionContext, draft: _Draft) -> dict[str, Any]:
        room, view, timeline, reader = draft.room, draft.view, draft.timeline, context.reader
        events = (*timeline.shown, *draft.state.values())
        shown = await self._erased.shown(room, view, events)
        pdus: Mapping[int, Mapping[str, Any]] = _NO_PDUS
        if context.filter.federation_format:  # slow: memory holds only the client format
            pdus = await self._lookups.pdus(room, events)
            if shown is not events:
                pdus = _redact_pdus(room.version, pdus, events, shown)
        state = [
            shown_event(event, reader, view, in_state=True, pdu=pdus.get(event.event_nid))
            for event in shown[len(timeline.shown) :]
        ]
        encoded = await self._timelines.encode(
            room, view, timeline, context.user, reader, end=draft.end, with_bundles=draft.whole, pdus=pdus
        )
        key = context.state_after or "state"
        return {
            key: {"events": state} if draft.block is None else SharedEvents(draft.block.pieces, state),
            "timeline": {"events": encoded, "limited": timeline.limited, "prev_batch": format_point(timeline.start)},
        }

    def _ephemeral(
        self, context: SectionContext, room: CachedRoom, receipts: Sequence[ReceiptRecord], *, everything: bool
    ) -> list[Any]:
        wanted = context.filter.room.ephemeral
        if not wanted.match_room(room.room_id):
            return []
        return ephemeral_events(
            self._typing.get(room.room_id),
            receipts,
            context.span,
            ignored=context.user.ignored_users,
            wanted=wanted,
            everything=everything,
        )


def _redact_pdus(
    version: RoomVersion,
    pdus: Mapping[int, Mapping[str, Any]],
    events: Sequence[TimelineEvent],
    shown: Sequence[TimelineEvent],
) -> Mapping[int, Mapping[str, Any]]:
    """Redact the PDUs of the events that the reader is shown in redacted form."""
    redacted = {event.event_nid for event, form in zip(events, shown, strict=True) if form.body is not event.body}
    return {nid: redact_pdu(version, pdu) if nid in redacted else pdu for nid, pdu in pdus.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
