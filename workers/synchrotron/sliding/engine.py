"""One look of sliding sync: which rooms a request wants, what is to be told of them, and what the client then knows.

The same for both forms; they differ only in how a request is read and an answer written.
Spec: MSC4186, "Lists and subscriptions".
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.core.sync_tokens.stream_token import StreamToken
from shared.core.sync_tokens.vector import Vector
from shared.rooms.shown_event import Reader
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import get_rooms_active_since
from workers.synchrotron.sections.joined_section import RoomSections, Span
from workers.synchrotron.sliding.answer import RoomAnswer, SlidingAnswer
from workers.synchrotron.sliding.connection_state import LIVE, ConnectionState, SentRoom, StateDraft
from workers.synchrotron.sliding.connections import Connection
from workers.synchrotron.sliding.extensions.extension import Asked, Extension, RoomInScope
from workers.synchrotron.sliding.extensions.registry import TOLD_BITS
from workers.synchrotron.sliding.extensions.scope import Scope
from workers.synchrotron.sliding.request import MAX_SUBSCRIPTIONS, RoomConfig, SlidingRequest, merge_configs
from workers.synchrotron.sliding.room_lists import RoomLists, direct_rooms
from workers.synchrotron.sliding.room_results import Known, RoomResults, Telling
from workers.synchrotron.sliding.room_traits import Traits
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import GLOBAL, SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.sync_tokens import Tokens

_ROOMS_AT_A_TIME = 10
#: Once the rooms of an answer have so many bytes of events, the others wait for the next one.
_MAX_ANSWER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class AskedExtension:
    extension: Extension
    parameters: Any
    scope: Scope

    @property
    def bit(self) -> int:
        return TOLD_BITS[self.extension.name] if self.extension.per_room else 0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with what doesn't change while it waits. with_counts: the answer has unread counts."""

    request: SlidingRequest
    extensions: Sequence[AskedExtension]
    connection: Connection
    user: SyncUser
    device_id: str | None
    sent_members: SentMembers
    with_counts: bool

    @property
    def shape(self) -> object:
        """Return what decides which rooms are wanted, and what of them: equal for equal requests."""
        return dict(self.request.lists), [(one.extension.name, one.scope) for one in self.extensions]


@dataclass(frozen=True, slots=True)
class Since:
    """Up to where the client was told. seq: see Span; state: what it has been sent by then.

    settled: rooms of which a look with the same request and state found that the client has all it wants, with the
    lists that they were in: without news nobody has to look at them again.
    """

    token: StreamToken | None
    seq: int | None
    state: ConnectionState
    settled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """An answer, if it is given; reached: from where a later look goes on. empty: the client knows all of it."""

    answer: SlidingAnswer
    reached: Since
    empty: bool


@dataclass(slots=True)
class _Wanted:
    """A room that the request lets in. lists: by name; config: of all that let it in."""

    lists: tuple[str, ...]
    subscribed: bool
    config: RoomConfig


class Engine:
    """reads: counted."""

    def __init__(
        self, tokens: Tokens, users: UserRooms, lists: RoomLists, traits: Traits, results: RoomResults,
        sections: RoomSections, unread: UnreadCounts, reads: Source, clock: Clock,
    ) -> None:  # fmt: skip
        self._tokens = tokens
        self._users = users
        self._lists = lists
        self._traits = traits
        self._results = results
        self._sections = sections
        self._unread = unread
        self._reads = reads
        self._clock = clock

    async def look(self, ask: Ask, since: Since) -> Look:
        """Return what happened between `since` and now. Raises Unavailable."""
        # No await between these: the vectors and the number are of one moment.
        now, seq, user = self._tokens.now(), self._users.seq, ask.user
        span = Span(since.token, now, since.seq, full_state=False)
        draft = StateDraft(since.state)
        _subscribe(draft, ask.request)
        filters = [one.filter for one in ask.request.lists.values()]
        lists = await self._lists.bring_up(
            ask.connection.lists, user, filters, draft.subscriptions, seq, draft.rooms.__contains__
        )
        rankings = {name: lists[one.filter].ranking for name, one in ask.request.lists.items()}
        wanted = self._wanted(ask, draft, {name: rankings[name].within(one.ranges)
                                           for name, one in ask.request.lists.items()})  # fmt: skip
        news = await self._news(user, draft, span)
        if ask.with_counts and span.since_seq is None:
            looked_at = [user.memberships[one] for one in wanted if one in news or one not in draft.rooms]
            joined = [one for one in looked_at if one.membership == "join"]
            await self._unread.prepare(user, joined, now.vector("events"))
        reader = Reader(user.user_id, ask.device_id, self._clock.now_ms())
        telling = Telling(user, span, reader, ask.sent_members, direct_rooms(user), ask.with_counts)
        settled = since.settled if since.seq is not None and GLOBAL not in news else {}
        rooms, open_rooms, postponed = await self._rooms(ask, telling, draft, wanted, news, settled)
        told = await self._extensions(ask, telling, draft, wanted, news, rooms, open_rooms, lambda: _matched(
            draft.subscriptions, (ranking.rooms() for ranking in rankings.values())
        ))  # fmt: skip
        answer = SlidingAnswer({name: len(ranking) for name, ranking in rankings.items()}, rooms, told[0])
        moved = any(settled.get(room_id) != wanted[room_id].lists for room_id in open_rooms)
        if moved or postponed or news - wanted.keys():
            settled = {}
        settled = settled or _settled(draft, wanted, ask.extensions)
        return Look(answer, Since(now, seq, draft.finish(), settled), not rooms and told[1])

    def _wanted(self, ask: Ask, draft: StateDraft, within: Mapping[str, Sequence[str]]) -> dict[str, _Wanted]:
        """Return the rooms that the request lets in, in the order of its lists."""
        names: dict[str, tuple[str, ...]] = {}
        for name, room_ids in within.items():
            for room_id in room_ids:
                names[room_id] = (*names[room_id], name) if room_id in names else (name,)
        configs: dict[tuple[str, ...], RoomConfig] = {}
        wanted = {}
        for room_id, lists in names.items():
            config = configs.get(lists)
            if config is None:
                config = configs[lists] = _merged(ask.request.lists[name].config for name in lists)
            wanted[room_id] = _Wanted(lists, False, config)
        for room_id, config in draft.subscriptions.items():
            if room_id in wanted:
                wanted[room_id].subscribed = True
                wanted[room_id].config = merge_configs(wanted[room_id].config, config)
            elif self._lists.may_subscribe(ask.connection.lists, ask.user, room_id, draft.rooms.__contains__):
                wanted[room_id] = _Wanted((), True, config)
        return wanted

    async def _news(self, user: SyncUser, draft: StateDraft, span: Span) -> set[str]:
        """Return the rooms that may have news, of those that the client has been sent."""
        if span.since is None:
            return set()
        if span.since_seq is not None:
            return set(user.changed_since(span.since_seq))
        # Another process gave the last answer: one query tells in which rooms anything happened.
        events, receipts = span.since.vector("events"), span.since.vector("receipts")
        nids = [room.room_nid for room in draft.rooms.values()]
        active = await get_rooms_active_since(self._reads, nids, events.base, receipts.base) if nids else set()
        return {
            room_id
            for room_id, room in draft.rooms.items()
            if room.room_nid in active
            or span.changed(user.memberships[room_id])
            or room_id in user.account_data
            or self._sections.has_typing(room_id)
        }

    async def _rooms(
        self, ask: Ask, telling: Telling, draft: StateDraft, wanted: Mapping[str, _Wanted], news: set[str],
        settled: Mapping[str, tuple[str, ...]],
    ) -> tuple[dict[str, RoomAnswer], list[str], set[str]]:  # fmt: skip
        """Return what is told of rooms, the rooms of which an extension may have something to tell, and the rooms
        that are wanted and not told of: there is too much, or they changed after this look began."""
        now, since = telling.span.now.vector("events"), telling.span.since
        rooms: dict[str, RoomAnswer] = {}
        open_rooms = []
        postponed: set[str] = set()
        looked_at = told_bytes = 0
        for room_id, one in wanted.items():
            if room_id not in news and settled.get(room_id) == one.lists and not one.subscribed:
                continue
            membership = telling.user.told_membership(room_id)
            room = draft.rooms.get(room_id)
            if not now.covers(membership.writer, membership.position):
                postponed.add(room_id)
                continue
            done = room is not None and _is_settled(draft, room, one.config, room_id in telling.direct)
            if room is not None and done and room_id not in news:
                if _lacks(room, _bits(ask.extensions, room_id, one)):
                    open_rooms.append(room_id)
                continue
            if told_bytes > _MAX_ANSWER_BYTES:
                postponed.add(room_id)
                continue
            looked_at += 1
            if looked_at % _ROOMS_AT_A_TIME == 0:
                await asyncio.sleep(0)  # rooms in memory ask nobody: let others have a turn
            known = None
            if room is not None and since is not None:
                known = Known(room, draft.token_of(room) or since.vector("events"), draft.state_of(room))
            member = self._lists.was_member(ask.connection.lists, membership, room)
            answer, sent = await self._results.build(telling, membership, one.config, known, member=member)
            draft.set(room_id, sent._replace(state=draft.number_of(one.config.required_state)))
            open_rooms.append(room_id)
            if answer is not None:
                answer.lists = one.lists
                rooms[room_id] = answer
                told_bytes += answer.size_bytes
        if since is not None:
            self._freeze(telling, draft, news, wanted.keys() - postponed, since.vector("events"))
        return rooms, open_rooms, postponed

    def _freeze(
        self, telling: Telling, draft: StateDraft, news: Iterable[str], told: Collection[str], since: Vector
    ) -> None:  # fmt: skip
        """Note up to where the client knows the rooms with events that this answer doesn't bring. told: the others."""
        for room_id in news:
            room = draft.rooms.get(room_id)
            if room is None or room.token != LIVE or room_id in told:
                continue
            membership = telling.user.memberships[room_id]
            traits = self._traits.get(room_id)
            quiet = traits is not None and since.covers(traits.writer, traits.position)
            if not quiet and (membership.membership == "join" or telling.span.changed(membership)):
                draft.freeze(room_id, since)

    async def _extensions(
        self, ask: Ask, telling: Telling, draft: StateDraft, wanted: Mapping[str, _Wanted], news: Iterable[str],
        rooms: Mapping[str, RoomAnswer], open_rooms: Sequence[str], matched: Callable[[], set[str]],
    ) -> tuple[dict[str, Any], bool]:  # fmt: skip
        """Return what the extensions tell, and whether the client knows all of it."""
        bodies: dict[str, Any] = {}
        empty = True
        covered: dict[str, int] = {}
        for one in ask.extensions:
            in_scope = []
            for room_id in open_rooms if one.bit else ():
                room = wanted[room_id]
                if one.scope.has(room_id, room.lists, room.subscribed):
                    covered[room_id] = covered.get(room_id, 0) | one.bit
                    in_scope.append(_in_scope(telling.user, draft, room_id, one.bit, rooms.get(room_id)))
            told = await one.extension.tell(
                Asked(telling.user, ask.device_id, telling.span, telling.reader, in_scope, matched), one.parameters
            )
            if told.body is not None:
                bodies[one.extension.name] = told.body
            empty = empty and told.empty
        for room_id in {*news, *covered}:
            sent = draft.rooms.get(room_id)
            if sent is not None:
                bits = covered.get(room_id, 0)
                # News out of scope: what was told before is out of date.
                draft.set(room_id, sent._replace(told=bits if room_id in news else sent.told | bits))
        return bodies, empty


def _subscribe(draft: StateDraft, request: SlidingRequest) -> None:
    kept = dict(draft.subscriptions) if request.sticky else {}
    for room_id in request.unsubscribe:
        kept.pop(room_id, None)
    for room_id, config in request.subscriptions.items():
        if kept.get(room_id) != config:
            kept.pop(room_id, None)
            kept[room_id] = config
    draft.subscribe(kept, MAX_SUBSCRIPTIONS)


def _merged(configs: Iterable[RoomConfig]) -> RoomConfig:
    merged = None
    for config in configs:
        merged = config if merged is None else merge_configs(merged, config)
    assert merged is not None
    return merged


def _is_settled(draft: StateDraft, room: SentRoom, config: RoomConfig, is_dm: bool) -> bool:
    """Return whether, without news, the client has all of a room that it now wants."""
    return (
        room.token == LIVE
        and room.is_dm == is_dm
        and (
            room.stripped
            or (config.timeline_limit <= room.limit and draft.state_of(room) == config.required_state)
        )
    )  # fmt: skip


def _bits(extensions: Iterable[AskedExtension], room_id: str, room: _Wanted) -> int:
    """Return the bits of the extensions that have the room in their scope."""
    return sum(one.bit for one in extensions if one.bit and one.scope.has(room_id, room.lists, room.subscribed))


def _lacks(room: SentRoom, bits: int) -> bool:
    return room.told & bits != bits


def _settled(
    draft: StateDraft, wanted: Mapping[str, _Wanted], extensions: Sequence[AskedExtension]
) -> dict[str, tuple[str, ...]]:
    """Return the rooms that nobody has to look at without news: after this look the client has all that it wants."""
    settled = {}
    for room_id, one in wanted.items():
        room = draft.rooms.get(room_id)
        if (
            room is not None
            and not one.subscribed
            and _is_settled(draft, room, one.config, room.is_dm)
            and not _lacks(room, _bits(extensions, room_id, one))
        ):
            settled[room_id] = one.lists
    return settled


def _in_scope(user: SyncUser, draft: StateDraft, room_id: str, bit: int, answer: RoomAnswer | None) -> RoomInScope:
    initial = answer is not None and answer.initial
    told = bool(draft.rooms[room_id].told & bit) and not initial
    timeline = answer.events if answer is not None else ()
    return RoomInScope(room_id, user.told_membership(room_id), told, initial, timeline)


def _matched(subscriptions: Iterable[str], rankings: Iterable[Iterable[str]]) -> set[str]:
    return set(subscriptions).union(*rankings)
