"""Timelines of rooms for both forms of sync: which events a response shows, and how this reader gets them."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared.core.filters import EventFilter
from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.rooms.aggregations import Bundles, bundle
from shared.rooms.shown_event import Reader, matches, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.runtime.slices import Slices
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.cached_room import CachedRoom, StateKey
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.sections.cached_relatives import CachedRelatives
from workers.synchrotron.sections.erased_senders import ErasedSenders
from workers.synchrotron.sections.span import Span
from workers.synchrotron.sections.timeline import Timeline, cut_timeline, last_gap
from workers.synchrotron.users.sync_user import LEFT, SyncUser

_PAGE = 100
_MAX_PAGES = 5  # searched for events that pass a filter; then the client pages on
_NO_PDUS: Mapping[int, Mapping[str, Any]] = {}


class RoomTimelines:
    """Cuts timelines, judges their visibility and encodes their events.

    In the usual case, a new message in a room in memory, nothing here reads Postgres.
    """

    def __init__(self, lookups: RoomLookups, erased: ErasedSenders) -> None:
        self._lookups = lookups
        self._erased = erased

    async def known_up_to(self, room: CachedRoom, user: SyncUser, membership: RoomMembership, span: Span) -> int | None:
        """Return the ordinal up to which the client knows the room; None if the room is new to it."""
        if span.since is None:
            return None
        ordinal = await self._lookups.ordinal_at(room, span.since.vector("events"))
        if not span.changed(membership):
            return ordinal
        history = await self._lookups.member_history(room, user.user_id, ordinal)
        earlier = [value for since, value in history if since <= ordinal]
        return ordinal if earlier and earlier[-1] == "join" else None

    async def left_known_up_to(self, room: CachedRoom, user: SyncUser, span: Span, end: int) -> int | None:
        """Return the ordinal up to which the client knows a room that the user left at `end`.

        None if the room is new to the client: in the span the user joined and left it. A user who was not joined in the
        span learns nothing of the room's state.
        """
        if span.since is None:
            return None
        ordinal = await self._lookups.ordinal_at(room, span.since.vector("events"))
        if ordinal >= end:
            return end - 1
        history = await self._lookups.member_history(room, user.user_id, ordinal)
        earlier = [value for since, value in history if since <= ordinal]
        was_joined = bool(earlier) and earlier[-1] == "join"
        joined_since = any(value == "join" for since, value in history if ordinal < since < end)
        return None if joined_since and not was_joined else ordinal

    async def was_out_at(self, room: CachedRoom, user: SyncUser, vector: Vector) -> bool:
        """Return True if the user had left the room, or was never in it, as of a vector of the stream `events`."""
        ordinal = await self._lookups.ordinal_at(room, vector)
        history = await self._lookups.member_history(room, user.user_id, ordinal)
        earlier = [value for since, value in history if since <= ordinal]
        return not earlier or earlier[-1] in LEFT

    async def cut(
        self,
        room: CachedRoom,
        user: SyncUser,
        membership: RoomMembership,
        *,
        above: int,
        end: int,
        limit: int,
        wanted: EventFilter,
    ) -> tuple[Viewpoint, Timeline]:
        """Return the latest `limit` events above one ordinal and up to another that the user may see."""
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
            older = await self._lookups.events_before(room, lowest, _PAGE)
            complete = len(older) < _PAGE or older[0].ordinal <= above + 1
            events = [event for event in older if event.ordinal > above] + events
        return view, timeline

    async def _view(self, room: CachedRoom, user_id: UserId, membership: RoomMembership, lowest: int) -> Viewpoint:
        joined = membership.membership == "join"
        if joined and membership.ordinal < lowest:
            return Viewpoint(user_id, room.visibility, (), joined_throughout_from=membership.ordinal)
        history = await self._lookups.member_history(room, user_id, lowest)
        return Viewpoint(
            user_id,
            room.visibility,
            history,
            joined_throughout_from=membership.ordinal if joined else None,
            end=None if joined else membership.ordinal,
        )

    async def encode(
        self,
        room: CachedRoom,
        view: Viewpoint,
        timeline: Timeline,
        user: SyncUser,
        reader: Reader,
        *,
        end: int,
        with_bundles: bool,
        pdus: Mapping[int, Mapping[str, Any]] = _NO_PDUS,
    ) -> list[orjson.Fragment]:
        """Return the timeline's events for this reader.

        end: the ordinal at which the response ends.
        with_bundles: bundle relations. A client that gets every event of a room aggregates by itself.
        pdus: events in the federation format, where the client wants it.
        """
        bundles: Bundles = {}
        if timeline.shown and (timeline.limited or with_bundles):
            relatives = CachedRelatives(
                self._lookups,
                self._erased,
                room,
                view,
                ignored=user.ignored_users,
                start=timeline.shown[0].ordinal,
                end=end,
            )
            bundles = await bundle(timeline.shown, relatives, reader)
        slices, encoded = Slices(), []
        for event in await self._erased.shown(room, view, timeline.shown):
            await slices.rest()
            pdu, relations = pdus.get(event.event_nid), bundles.get(event.event_nid)
            encoded.append(shown_event(event, reader, view, pdu=pdu, relations=relations))
        return encoded

    async def shown_state(
        self, room: CachedRoom, view: Viewpoint, state: Mapping[StateKey, TimelineEvent]
    ) -> dict[StateKey, TimelineEvent]:
        """Return state events in the forms that this reader gets."""
        return dict(zip(state, await self._erased.shown(room, view, list(state.values())), strict=True))

    async def encode_state(
        self, room: CachedRoom, view: Viewpoint, state: Sequence[TimelineEvent], reader: Reader
    ) -> list[orjson.Fragment]:
        """Return state events for this reader."""
        events = await self._erased.shown(room, view, state)
        slices, encoded = Slices(), []
        for event in events:
            await slices.rest()
            encoded.append(shown_event(event, reader, view, in_state=True))
        return encoded
