"""One room of a sliding sync response: its updates since the client knew it, as far as the client wants them.

Timelines are cut, judged and encoded by the same code as in classic /sync. Spec: MSC4186, "Room results".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from shared.core.filters import EventFilter
from shared.core.heroes import heroes_for
from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.rooms.history_tokens import format_point
from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.engine.pool import Source
from shared.storage.rooms.list_traits import get_last_of_types
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.cached_room import CachedRoom, StateEntry, StateKey
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.sections.room_extras import new_receipts
from workers.synchrotron.sections.span import Span
from workers.synchrotron.sections.stripped_state import StrippedStates
from workers.synchrotron.sections.timeline import Timeline
from workers.synchrotron.sections.timelines import RoomTimelines
from workers.synchrotron.sliding.connection_state import LIVE, SentRoom
from workers.synchrotron.sliding.request import RoomConfig
from workers.synchrotron.sliding.required_state import RequiredState
from workers.synchrotron.sliding.response import RoomResult
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts

#: The event types that count as activity. Spec: MSC4186, `bump_stamp`.
BUMP_TYPES = frozenset(
    (
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "m.beacon_info",
    )
)
_NAME, _AVATAR = ("m.room.name", ""), ("m.room.avatar", "")
_BUMP_SEARCH_EVENTS = 500  # how far back to look for activity before the events in memory
_MAX_BUMP_STAMPS = 20_000  # kept in memory
_EVERYTHING = EventFilter()


@dataclass(slots=True, kw_only=True)
class ResponseContext:
    """The context that all rooms of a response share."""

    user: SyncUser
    span: Span
    reader: Reader
    #: Member events that lazy loading need not repeat. None: repeat all.
    sent: SentMembers | None
    #: The rooms that are direct chats.
    direct: frozenset[RoomId]
    #: True if the response has unread counts.
    with_counts: bool


@dataclass(frozen=True, slots=True)
class KnownRoom:
    """A room as the client knows it."""

    room: SentRoom
    #: The vector up to which the client knows its events.
    at: Vector
    #: The required state that was sent.
    state: RequiredState


@dataclass(slots=True, kw_only=True)
class _RoomBuild:
    """A room whose result is being built."""

    context: ResponseContext
    room: CachedRoom
    membership: RoomMembership
    config: RoomConfig
    #: None: the room is new to the client.
    known: KnownRoom | None
    #: The ordinal up to which the client knows the room, 0 for a new one.
    above: int
    #: The ordinal at which the result ends.
    end: int

    @property
    def is_joined(self) -> bool:
        return self.membership.membership == "join"


class RoomResults:
    """Builds results of rooms."""

    def __init__(
        self,
        *,
        rooms: RoomCache,
        lookups: RoomLookups,
        timelines: RoomTimelines,
        stripped: StrippedStates,
        unread: UnreadCounts,
        reads: Source,
    ) -> None:
        self._rooms = rooms
        self._lookups = lookups
        self._timelines = timelines
        self._stripped = stripped
        self._unread = unread
        self._reads = reads
        #: (ordinal before which nothing was searched, bump stamp) by room.
        self._bump_stamps: dict[RoomId, tuple[int, int]] = {}

    async def build(
        self,
        context: ResponseContext,
        membership: RoomMembership,
        config: RoomConfig,
        known: KnownRoom | None,
        *,
        was_member: bool,
    ) -> tuple[RoomResult | None, SentRoom]:
        """Return the result, None without updates; and what the client then knows of the room.

        was_member: the user is or was joined; else they get the stripped state. The caller sets the number `state` of
        the SentRoom.
        """
        if known is not None and membership.forgotten and await self._knew_left(context, membership, known):
            return None, known.room._replace(token=LIVE)  # nothing that others do brings a forgotten room back
        if known is not None and known.room.stripped == was_member:
            known = None  # from stripped state to the room, or back: all of it is new
        if not was_member:
            return await self._build_stripped(context, membership, known)
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None, SentRoom(membership.room_nid)
        return await self._build_room(await self._begin(context, room, membership, config, known))

    async def _knew_left(self, context: ResponseContext, membership: RoomMembership, known: KnownRoom) -> bool:
        room = await self._rooms.get(membership.room_id)
        return room is None or await self._timelines.was_out_at(room, context.user, known.at)

    async def _build_stripped(
        self, context: ResponseContext, membership: RoomMembership, known: KnownRoom | None
    ) -> tuple[RoomResult | None, SentRoom]:
        is_dm = membership.room_id in context.direct
        sent_bits = known.room.sent_bits if known else 0
        sent = SentRoom(membership.room_nid, stripped=True, is_dm=is_dm, sent_bits=sent_bits)
        if known is not None and known.at.covers(membership.writer, membership.position):
            return None, sent
        stripped = await self._stripped.get(context.user.user_id, membership)
        if stripped is None:
            return None, sent
        result = RoomResult(
            membership=membership.membership,
            initial=known is None,
            bump_stamp=membership.position,
            stripped=stripped,
            ended=() if membership.membership in ("invite", "knock") else await self._own_event(context, membership),
            is_dm=is_dm or None,
        )
        return result, sent

    async def _own_event(self, context: ResponseContext, membership: RoomMembership) -> Sequence[orjson.Fragment]:
        """Return the user's current member event, as far as the room is here."""
        room, end = await self._rooms.get(membership.room_id), membership.ordinal
        if room is None:
            return ()
        view, timeline = await self._timelines.cut(
            room, context.user, membership, above=end - 1, end=end, limit=1, wanted=EventFilter()
        )
        state = [event for event in timeline.shown if event.key == (MEMBER, context.user.user_id)]
        return await self._timelines.encode_state(room, view, state, context.reader)

    async def _begin(
        self,
        context: ResponseContext,
        room: CachedRoom,
        membership: RoomMembership,
        config: RoomConfig,
        known: KnownRoom | None,
    ) -> _RoomBuild:
        joined = membership.membership == "join"
        now = context.span.now
        end = await self._lookups.ordinal_at(room, now.vector("events")) if joined else membership.ordinal
        above: int | None = None
        if known is not None and joined:
            span = Span(StreamToken({"events": known.at}), now, None, full_state=False)
            above = await self._timelines.known_up_to(room, context.user, membership, span)
        elif known is not None:
            above = min(await self._lookups.ordinal_at(room, known.at), membership.ordinal)
        return _RoomBuild(
            context=context,
            room=room,
            membership=membership,
            config=config,
            known=None if above is None else known,  # None: the user has rejoined, all of it is new
            above=above or 0,
            end=end,
        )

    async def _build_room(self, build: _RoomBuild) -> tuple[RoomResult | None, SentRoom]:
        context, room, known = build.context, build.room, build.known
        view, timeline, expanded = await self._cut_timeline(build)
        changes = {} if known is None else await self._lookups.last_changes(room, build.above, build.end)
        state, removed = await self._build_state(build, timeline, changes)
        is_dm = build.membership.room_id in context.direct
        sent = _sent_room(build, timeline, expanded=expanded, is_dm=is_dm)
        result = RoomResult(membership=build.membership.membership, initial=known is None)
        await self._add_facts(build, view, result, changes)
        if is_dm != (known is not None and known.room.is_dm):
            result.is_dm = is_dm
        if not (
            known is None
            or timeline.shown
            or timeline.limited
            or state
            or removed
            or result.facts
            or result.is_dm is not None
            or result.joined_count is not None
            or self._may_have_other_counts(build)
        ):
            return None, sent
        result.bump_stamp = await self._bump_stamp(build)
        result.state = await self._timelines.encode_state(room, view, state, context.reader)
        result.removed = removed
        await self._lookups.load_previous(room, timeline.shown)
        result.timeline = await self._timelines.encode(
            room,
            view,
            timeline,
            context.user,
            context.reader,
            end=build.end,
            with_bundles=known is None or expanded,
        )
        result.size_bytes = sum(len(event.body) for event in (*state, *timeline.shown))
        result.events, result.expanded, result.limited = timeline.shown, expanded, timeline.limited
        if timeline.shown or timeline.limited or known is None:
            result.prev_batch = format_point(timeline.start)
        if context.with_counts and build.is_joined:
            result.counts = (await self._unread.of(context.user, room, build.end)).all
        if context.span.since is not None:
            before = await self._lookups.ordinal_at(room, context.span.since.vector("events"))
            result.num_live = sum(event.ordinal > before for event in timeline.shown)
        return result, sent

    def _may_have_other_counts(self, build: _RoomBuild) -> bool:
        """Return True if a receipt of the user's, or an event hidden from them, may have changed the counts."""
        context = build.context
        if not context.with_counts or context.span.since is None:
            return False
        user = context.user
        if self._unread.may_have_changed(user, build.room, build.above, build.end):
            return True
        receipts = new_receipts(build.room, user.user_id, context.span, everything=False)
        return any(receipt.user_id == user.user_id for receipt in receipts)

    async def _cut_timeline(self, build: _RoomBuild) -> tuple[Viewpoint, Timeline, bool]:
        """Return the timeline, and True if it begins before what the client knows.

        Spec: MSC4186, "Changes to `timeline_limit`".
        """
        known = build.known
        if known is not None and build.config.timeline_limit > known.room.limit:
            view, timeline = await self._cut(build, above=0)
            if timeline.shown and timeline.shown[0].ordinal < known.room.known_from:
                return view, timeline, True
        view, timeline = await self._cut(build, above=build.above)
        return view, timeline, False

    async def _cut(self, build: _RoomBuild, *, above: int) -> tuple[Viewpoint, Timeline]:
        return await self._timelines.cut(
            build.room,
            build.context.user,
            build.membership,
            above=above,
            end=build.end,
            limit=build.config.timeline_limit,
            wanted=_EVERYTHING,
        )

    async def _build_state(
        self, build: _RoomBuild, timeline: Timeline, changes: Mapping[StateKey, StateEntry]
    ) -> tuple[list[TimelineEvent], list[StateKey]]:
        """Return the state events to send, as of the end, and the keys that left the state."""
        required, known = build.config.required_state, build.known
        state: dict[StateKey, TimelineEvent] = {}
        removed = []
        if known is None:
            state = await self._required_state(build)
        elif required != known.state and required.asks_more_than(known.state):
            now = await self._required_state(build)
            state = {key: event for key, event in now.items() if not known.state.wants(key)}
        lazy = required.lazy
        for key, entry in changes.items():
            # With lazy members the client gets every member change, unless the timeline is limited.
            if not required.wants(key) and not (lazy and key[0] == MEMBER and not timeline.limited):
                continue
            if entry.event is None:
                removed.append(key)
            else:
                state[key] = entry.event
        if lazy:
            await self._add_lazy_members(build, state, timeline)
        return list(state.values()), removed

    async def _required_state(self, build: _RoomBuild) -> dict[StateKey, TimelineEvent]:
        room, required, before = build.room, build.config.required_state, build.end + 1
        if not required.has_wildcard:
            return await self._lookups.keys_before(room, before, required.named_keys())
        state = await self._lookups.state_before(room, before, members=required.all_members)
        state = {key: event for key, event in state.items() if required.wants(key)}
        if not required.all_members:
            named = [key for key in required.named_keys() if key[0] == MEMBER]
            state.update(await self._lookups.keys_before(room, before, named))
        return state

    async def _add_lazy_members(
        self, build: _RoomBuild, state: dict[StateKey, TimelineEvent], timeline: Timeline
    ) -> None:
        """Add the member events that the timeline needs. Spec: MSC4186, "Lazy loaded memberships"."""
        room, sent = build.room, build.context.sent
        users = dict.fromkeys(event.sender for event in timeline.shown)
        users.update((UserId(event.state_key or ""), None) for event in timeline.shown if event.type == MEMBER)
        needed = [(MEMBER, user_id) for user_id in users if (MEMBER, user_id) not in state]
        known = None if build.known is None else sent  # a client drops what it had of a room that is `initial`
        for key, event in (await self._lookups.keys_before(room, build.end + 1, needed)).items():
            if known is None or not known.is_redundant(room.room_id, UserId(key[1]), event.event_id):
                state[key] = event
        if sent is not None:
            for (type_, user_id), event in state.items():
                if type_ == MEMBER:
                    sent.note(room.room_id, UserId(user_id), event.event_id)

    async def _add_facts(
        self, build: _RoomBuild, view: Viewpoint, result: RoomResult, changed: Iterable[StateKey]
    ) -> None:
        """Add name, avatar, heroes and member counts: all for a new room, else those that may have changed."""
        keys = set(changed)
        members_changed = result.initial or any(type_ == MEMBER for type_, _ in keys)
        if not (members_changed or _NAME in keys or _AVATAR in keys):
            return
        room, before = build.room, build.end + 1
        state = await self._lookups.keys_before(room, before, (_NAME, _AVATAR))
        state = await self._timelines.shown_state(room, view, state)
        name, avatar = _text(state.get(_NAME), "name"), _text(state.get(_AVATAR), "url")
        for key, field, value in ((_NAME, "name", name), (_AVATAR, "avatar", avatar)):
            if (result.initial and value is not None) or key in keys:
                result.facts[field] = value
        if not build.is_joined:
            return  # the current member counts are for members only
        summary = await self._lookups.summary(room) if members_changed or name is None else None
        if summary is not None and members_changed:
            result.joined_count, result.invited_count = summary.joined, summary.invited
        if summary is not None and name is None:
            heroes = heroes_for(build.context.user.user_id, summary.first)
            members = await self._lookups.keys_before(room, before, [(MEMBER, user_id) for user_id in heroes])
            members = await self._timelines.shown_state(room, view, members)
            result.facts["heroes"] = [_hero(user_id, members.get((MEMBER, user_id))) for user_id in heroes]

    async def _bump_stamp(self, build: _RoomBuild) -> int:
        """Return the position of the last activity, as far back as it is searched for."""
        room, membership = build.room, build.membership
        if not build.is_joined:
            return membership.position
        for event in reversed(room.events_between(0, build.end)):
            if event.type in BUMP_TYPES:
                return event.position
        searched_before, stamp = self._bump_stamps.get(room.room_id, (-1, 0))
        if searched_before < room.first_ordinal:
            found = await get_last_of_types(
                self._reads, room.room_nid, room.first_ordinal, BUMP_TYPES, _BUMP_SEARCH_EVENTS
            )
            stamp = membership.position if found is None else found
            if len(self._bump_stamps) >= _MAX_BUMP_STAMPS:
                self._bump_stamps.clear()
            self._bump_stamps[room.room_id] = room.first_ordinal, stamp
        return stamp


def _sent_room(build: _RoomBuild, timeline: Timeline, *, expanded: bool, is_dm: bool) -> SentRoom:
    known, limit, known_from = build.known, build.config.timeline_limit, timeline.start
    if known is not None and not timeline.limited and not expanded:
        known_from = known.room.known_from
        limit = max(limit, known.room.limit)
    sent_bits = known.room.sent_bits if known is not None else 0
    return SentRoom(build.membership.room_nid, limit, known_from, is_dm=is_dm, sent_bits=sent_bits)


def _text(event: TimelineEvent | None, field: str) -> str | None:
    value = None if event is None else event.content().get(field)
    return value if isinstance(value, str) and value else None


def _hero(user_id: UserId, member: TimelineEvent | None) -> dict[str, str]:
    hero: dict[str, str] = {"user_id": user_id}
    for field in ("displayname", "avatar_url"):
        if (value := _text(member, field)) is not None:
            hero[field] = value
    return hero
