"""One room of an answer: what happened in it since the client was told of it, within what the client wants of it.

It is put together from the parts that classic /sync is made of: timelines are cut, judged and encoded there.
Spec: MSC4186, "Room results".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.filters import EventFilter
from shared.core.heroes import heroes_for
from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.rooms.place_tokens import format_place
from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.engine.pool import Source
from shared.storage.rooms.list_traits import get_last_of_types
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.cached_room import CachedRoom, StateKey
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.sections.invited_section import stripped_state_of
from workers.synchrotron.sections.joined_section import RoomSections, Span
from workers.synchrotron.sections.room_section import Timeline
from workers.synchrotron.sliding.answer import RoomAnswer
from workers.synchrotron.sliding.connection_state import SentRoom
from workers.synchrotron.sliding.request import RoomConfig
from workers.synchrotron.sliding.required_state import RequiredState
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts

#: "Proper" activity. Spec: MSC4186, `bump_stamp`.
BUMPS = frozenset(
    {
        "m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start",
        "m.beacon_info",
    }
)  # fmt: skip
_NAME, _AVATAR = ("m.room.name", ""), ("m.room.avatar", "")
_LOOKED_AT = 500  # events, for the last proper activity
_MAX_STAMPS = 20_000  # remembered
_EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class Telling:
    """What an answer tells a room's client by. span: of the whole answer; sent: members that it has, None: repeat all.

    direct: rooms that are direct chats; with_counts: unread counts are told.
    """

    user: SyncUser
    span: Span
    reader: Reader
    sent: SentMembers | None
    direct: frozenset[str]
    with_counts: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What the client knows of a room: as sent, up to `at`, with `state` wanted then."""

    room: SentRoom
    at: Vector
    state: RequiredState


class RoomResults:
    """reads: counted."""

    def __init__(self, rooms: RoomCache, sections: RoomSections, unread: UnreadCounts, reads: Source) -> None:
        self._rooms = rooms
        self._sections = sections
        self._unread = unread
        self._reads = reads
        self._stamps: dict[str, tuple[int, int]] = {}  # room -> (ordinal looked up to, stamp)

    async def build(
        self, telling: Telling, membership: RoomMembership, config: RoomConfig, known: Known | None, *, member: bool,
    ) -> tuple[RoomAnswer | None, SentRoom]:  # fmt: skip
        """Return what to tell of the room, None: nothing; and what the client then knows of it.

        member: the user is in the room, or has been. The `state` number of the result is for the caller to set.
        """
        if known is not None and known.room.stripped == member:
            known = None  # from an invitation to a room, or the other way round: all of it is new
        if not member:
            return await self._stripped(telling, membership, known)
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None, SentRoom(membership.room_nid)
        return await self._whole(telling, room, membership, config, known)

    async def _stripped(
        self, telling: Telling, membership: RoomMembership, known: Known | None
    ) -> tuple[RoomAnswer | None, SentRoom]:
        is_dm = membership.room_id in telling.direct
        sent = SentRoom(membership.room_nid, stripped=True, is_dm=is_dm, told=known.room.told if known else 0)
        if known is not None and known.at.covers(membership.writer, membership.position):
            return None, sent
        stripped = await stripped_state_of(self._rooms, telling.user.user_id, membership)
        if stripped is None:
            return None, sent
        answer = RoomAnswer(membership.membership, known is None, membership.position, stripped=stripped)
        answer.is_dm = is_dm or None
        return answer, sent

    async def _whole(
        self, telling: Telling, room: CachedRoom, membership: RoomMembership, config: RoomConfig, known: Known | None
    ) -> tuple[RoomAnswer | None, SentRoom]:
        user, span = telling.user, telling.span
        joined = membership.membership == "join"
        end = await self._rooms.ordinal_at(room, span.now.vector("events")) if joined else membership.ordinal
        base = None if known is None else await self._base(telling, room, membership, known)
        if base is None:
            known = None
        view, timeline, expanded = await self._timeline(telling, room, membership, config, known, base, end)
        changed = {} if base is None else await self._rooms.last_changes(room, base, end)
        state, removed = await self._state(telling, room, config, known, timeline, changed, base, end)
        is_dm = membership.room_id in telling.direct
        sent = _sent(membership, config, known, timeline, expanded, is_dm)
        answer = RoomAnswer(membership.membership, known is None, 0)
        await self._add_facts(answer, telling, room, changed, end, joined=joined)
        if is_dm != (known is not None and known.room.is_dm):
            answer.is_dm = is_dm
        if known is not None and not (
            timeline.shown or timeline.limited or state or removed or answer.facts or answer.is_dm is not None
            or answer.joined_count is not None or await self._has_other_counts(telling, room, known, base or 0, end)
        ):  # fmt: skip
            return None, sent
        reader = telling.reader
        answer.bump_stamp = await self._bump_stamp(room, membership, end)
        answer.state = await self._sections.shown_state(room, view, state, reader)
        answer.removed = removed
        await self._rooms.add_previous(room, timeline.shown)
        answer.timeline = await self._sections.shown_timeline(
            room, view, timeline, end, user, reader, whole=known is None or expanded
        )
        answer.size_bytes = sum(len(event.body) for event in (*state, *timeline.shown))
        answer.events, answer.expanded, answer.limited = timeline.shown, expanded, timeline.limited
        if timeline.shown or timeline.limited or known is None:
            answer.prev_batch = format_place(timeline.start)
        if telling.with_counts and joined:
            answer.counts = (await self._unread.of(user, room, end)).all
        if span.since is not None:
            before = await self._rooms.ordinal_at(room, span.since.vector("events"))
            answer.num_live = sum(event.ordinal > before for event in timeline.shown)
        return answer, sent

    async def _has_other_counts(self, telling: Telling, room: CachedRoom, known: Known, base: int, end: int) -> bool:
        """Return whether the user has read in the room since, on any device, or something hidden from him counts."""
        if not telling.with_counts or telling.span.since is None:
            return False
        user = telling.user
        if self._unread.news(user, room, base, end):
            return True
        receipts = await self._sections.fresh_receipts(room, user.user_id, telling.span, everything=False)
        return any(receipt.user_id == user.user_id for receipt in receipts)

    async def _base(self, telling: Telling, room: CachedRoom, membership: RoomMembership, known: Known) -> int | None:
        """Return the ordinal up to which the client knows the room; None: he came back into it, it is new."""
        span = Span(StreamToken({"events": known.at}), telling.span.now, None, full_state=False)
        if membership.membership == "join":
            return await self._sections.base(room, telling.user, membership, span)
        base = await self._rooms.ordinal_at(room, known.at)
        return min(base, membership.ordinal)

    async def _timeline(
        self, telling: Telling, room: CachedRoom, membership: RoomMembership, config: RoomConfig, known: Known | None,
        base: int | None, end: int,
    ) -> tuple[Viewpoint, Timeline, bool]:  # fmt: skip
        """Return what he sees of the timeline, and whether that begins before what the client knows.

        Spec: MSC4186, "Changes to `timeline_limit`".
        """
        limit = config.timeline_limit
        if known is not None and limit > known.room.limit:
            view, timeline = await self._cut(telling, room, membership, 0, end, limit)
            if timeline.shown and timeline.shown[0].ordinal < known.room.known_from:
                return view, timeline, True
        view, timeline = await self._cut(telling, room, membership, base or 0, end, limit)
        return view, timeline, False

    async def _cut(
        self, telling: Telling, room: CachedRoom, membership: RoomMembership, above: int, end: int, limit: int
    ) -> tuple[Viewpoint, Timeline]:
        return await self._sections.timeline(
            room, telling.user, membership, above=above, end=end, limit=limit, wanted=_EVERYTHING
        )

    async def _state(
        self, telling: Telling, room: CachedRoom, config: RoomConfig, known: Known | None, timeline: Timeline,
        changed: Mapping[StateKey, Any], base: int | None, end: int,
    ) -> tuple[list[TimelineEvent], list[StateKey]]:  # fmt: skip
        """Return the state to tell as of the end, and the keys that left it."""
        required = config.required_state
        state: dict[StateKey, TimelineEvent] = {}
        removed = []
        if known is None:
            state = await self._wanted_state(room, required, end)
        elif required != known.state and required.asks_more_than(known.state):
            now = await self._wanted_state(room, required, end)
            state = {key: event for key, event in now.items() if not known.state.wants(key)}
        lazy = required.lazy
        for key, held in changed.items():
            # Who keeps a list of members lazily learns of changes, unless so much happened that a part is left out.
            if not required.wants(key) and not (lazy and key[0] == MEMBER and not timeline.limited):
                continue
            if held.event is None:
                removed.append(key)
            else:
                state[key] = held.event
        if lazy:
            await self._add_members(telling, room, state, timeline, end)
        return list(state.values()), removed

    async def _wanted_state(self, room: CachedRoom, required: RequiredState, end: int) -> dict[StateKey, TimelineEvent]:
        if not required.has_wildcard:
            return await self._rooms.keys_before(room, end + 1, required.named_keys())
        state = await self._rooms.state_before(room, end + 1, members=required.all_members)
        state = {key: event for key, event in state.items() if required.wants(key)}
        if not required.all_members:
            named = [key for key in required.named_keys() if key[0] == MEMBER]
            state.update(await self._rooms.keys_before(room, end + 1, named))
        return state

    async def _add_members(
        self, telling: Telling, room: CachedRoom, state: dict[StateKey, TimelineEvent], timeline: Timeline, end: int
    ) -> None:
        """Spec: MSC4186, "Lazy loaded memberships"."""
        sent = telling.sent
        users = dict.fromkeys(event.sender for event in timeline.shown)
        users.update((event.state_key or "", None) for event in timeline.shown if event.type == MEMBER)
        needed = [(MEMBER, user_id) for user_id in users if (MEMBER, user_id) not in state]
        for key, event in (await self._rooms.keys_before(room, end + 1, needed)).items():
            if sent is None or not sent.is_redundant(room.room_id, key[1], event.event_id):
                state[key] = event
        if sent is not None:
            for (type_, user_id), event in state.items():
                if type_ == MEMBER:
                    sent.note(room.room_id, user_id, event.event_id)

    async def _add_facts(
        self, answer: RoomAnswer, telling: Telling, room: CachedRoom, changed: Iterable[StateKey], end: int, *,
        joined: bool,
    ) -> None:  # fmt: skip
        """Add name, avatar, heroes and counts: all of a room that is new, else those that may have changed."""
        keys = set(changed)
        members_changed = answer.initial or any(type_ == MEMBER for type_, _ in keys)
        if not (members_changed or _NAME in keys or _AVATAR in keys):
            return
        state = await self._rooms.keys_before(room, end + 1, (_NAME, _AVATAR))
        name, avatar = _text(state.get(_NAME), "name"), _text(state.get(_AVATAR), "url")
        for key, field, value in ((_NAME, "name", name), (_AVATAR, "avatar", avatar)):
            if (answer.initial and value is not None) or key in keys:
                answer.facts[field] = value
        if not joined:
            return  # how many are in the room now is not his to know
        summary = await self._rooms.summary(room) if members_changed or name is None else None
        if summary is not None and members_changed:
            answer.joined_count, answer.invited_count = summary.joined, summary.invited
        if summary is not None and name is None:
            heroes = heroes_for(telling.user.user_id, summary.first)
            members = await self._rooms.keys_before(room, end + 1, [(MEMBER, user_id) for user_id in heroes])
            answer.facts["heroes"] = [_hero(user_id, members.get((MEMBER, user_id))) for user_id in heroes]

    async def _bump_stamp(self, room: CachedRoom, membership: RoomMembership, end: int) -> int:
        """Return the position of the last proper activity, as far back as it is looked for."""
        if membership.membership != "join":
            return membership.position
        for event in reversed(room.events_between(0, end)):
            if event.type in BUMPS:
                return event.position
        looked_to, stamp = self._stamps.get(room.room_id, (-1, 0))
        if looked_to < room.first_ordinal:
            found = await get_last_of_types(self._reads, room.room_nid, room.first_ordinal, BUMPS, _LOOKED_AT)
            stamp = membership.position if found is None else found
            if len(self._stamps) >= _MAX_STAMPS:
                self._stamps.clear()
            self._stamps[room.room_id] = room.first_ordinal, stamp
        return stamp


def _sent(
    membership: RoomMembership, config: RoomConfig, known: Known | None, timeline: Timeline, expanded: bool,
    is_dm: bool,
) -> SentRoom:  # fmt: skip
    limit, known_from = config.timeline_limit, timeline.start
    if known is not None and not timeline.limited and not expanded:
        known_from = known.room.known_from
        limit = max(limit, known.room.limit)
    told = known.room.told if known is not None else 0
    return SentRoom(membership.room_nid, limit, known_from, is_dm=is_dm, told=told)


def _text(event: TimelineEvent | None, field: str) -> str | None:
    value = None if event is None else event.content().get(field)
    return value if isinstance(value, str) and value else None


def _hero(user_id: str, member: TimelineEvent | None) -> dict[str, str]:
    hero = {"user_id": user_id}
    for field in ("displayname", "avatar_url"):
        if (value := _text(member, field)) is not None:
            hero[field] = value
    return hero
