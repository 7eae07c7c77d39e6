"""Building a response of sliding sync: the rooms a request wants, their updates, and what the client then knows.

Both forms use it. They differ only in how a request is parsed and a response is written.
Spec: MSC4186, "Lists and subscriptions".
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.core.identifiers import RoomId
from shared.core.rows import GLOBAL
from shared.rooms.shown_event import Reader
from shared.runtime.clock import Clock
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import get_rooms_active_since
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.span import Span
from workers.synchrotron.sliding.connection_state import LIVE, SentRoom, StateDraft
from workers.synchrotron.sliding.extensions.extension import ExtensionContext, RoomInScope
from workers.synchrotron.sliding.pending import BuiltResponse, EnabledExtension, PendingRequest, Progress
from workers.synchrotron.sliding.request import MAX_SUBSCRIPTIONS, RoomConfig, SlidingRequest, merge_configs
from workers.synchrotron.sliding.response import RoomResult, SlidingResponse
from workers.synchrotron.sliding.room_lists import ConnectionLists, RoomLists
from workers.synchrotron.sliding.room_results import KnownRoom, ResponseContext, RoomResults
from workers.synchrotron.sliding.room_traits import RoomTraitsCache
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_ROOMS_PER_SLICE = 10
#: Once the rooms of a response have this many bytes of events, further rooms wait for the next response.
_MAX_RESPONSE_BYTES = 4 << 20


@dataclass(slots=True)
class _WantedRoom:
    """A room that the request selects."""

    #: The names of the lists that select it.
    lists: tuple[str, ...]
    subscribed: bool
    #: The merged config of everything that selects it.
    config: RoomConfig


@dataclass(slots=True, kw_only=True)
class _Build:
    """A response while it is built."""

    pending: PendingRequest
    lists: ConnectionLists
    context: ResponseContext
    draft: StateDraft
    wanted: Mapping[RoomId, _WantedRoom]
    #: The rooms that may have updates.
    changed: set[RoomId]
    settled: Mapping[RoomId, tuple[str, ...]]
    #: Return all rooms that pass a list's filters or are subscribed to, whatever the ranges.
    matched: Callable[[], set[RoomId]]
    rooms: dict[RoomId, RoomResult] = field(default_factory=dict)
    #: Rooms about which extensions may have something to send.
    open_rooms: list[RoomId] = field(default_factory=list)
    #: Wanted rooms left for the next response: this one is full, or they changed after the build began.
    postponed: set[RoomId] = field(default_factory=set)
    extensions: dict[str, Any] = field(default_factory=dict)
    extensions_empty: bool = True


class Engine:
    """Builds responses."""

    def __init__(
        self,
        *,
        tokens: SyncTokens,
        users: UserCache,
        lists: RoomLists,
        traits: RoomTraitsCache,
        results: RoomResults,
        typing: TypingRooms,
        unread: UnreadCounts,
        reads: Source,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._users = users
        self._lists = lists
        self._traits = traits
        self._results = results
        self._typing = typing
        self._unread = unread
        self._reads = reads
        self._clock = clock

    async def build(self, pending: PendingRequest, progress: Progress) -> BuiltResponse:
        """Return the updates since `progress`. Raises Unavailable."""
        connection = pending.connection
        async with connection.turn:
            built = await self._build(pending, progress, connection.lists_for(progress.state))
            connection.note_lists(built.progress.state)
        return built

    async def _build(
        self, pending: PendingRequest, progress: Progress, connection_lists: ConnectionLists
    ) -> BuiltResponse:
        # No await between these: the vectors and the seq are of one moment.
        now, seq, user = self._tokens.now(), self._users.seq, pending.user
        span = Span(progress.token, now, progress.seq, full_state=False)
        draft = StateDraft(progress.state)
        _subscribe(draft, pending.request)
        requested = pending.request.lists
        lists = await self._lists.update(
            connection_lists,
            user,
            filters=[one.filter for one in requested.values()],
            named=draft.subscriptions,
            seq=seq,
            was_sent=draft.rooms.__contains__,
        )
        rankings = {name: lists[one.filter].ranking for name, one in requested.items()}
        within = {name: rankings[name].within(one.ranges) for name, one in requested.items()}
        wanted = await self._wanted(pending, connection_lists, draft, within)
        changed = await self._changed_rooms(user, draft, span)
        if pending.with_counts and span.since_seq is None:
            examined = [user.memberships[one] for one in wanted if one in changed or one not in draft.rooms]
            joined = [one for one in examined if one.membership == "join"]
            await self._unread.preload(user, joined, now.vector("events"))
        build = _Build(
            pending=pending,
            lists=connection_lists,
            context=ResponseContext(
                user=user,
                span=span,
                reader=Reader(
                    user.user_id,
                    pending.device_id,
                    self._clock.now_ms(),
                    device_created_ms=pending.device_created_ms,
                ),
                sent=pending.sent_members,
                direct=user.direct_rooms,
                with_counts=pending.with_counts,
            ),
            draft=draft,
            wanted=wanted,
            changed=changed,
            settled=progress.settled if progress.seq is not None and GLOBAL not in changed else {},
            matched=lambda: set(draft.subscriptions).union(*(ranking.rooms() for ranking in rankings.values())),
        )
        await self._build_rooms(build)
        await self._build_extensions(build)
        counts = {name: len(ranking) for name, ranking in rankings.items()}
        response = SlidingResponse(counts, build.rooms, build.extensions)
        reached = Progress(now, seq, draft.finish(), _settled(build))
        return BuiltResponse(response, reached, not build.rooms and build.extensions_empty)

    async def _wanted(
        self,
        pending: PendingRequest,
        lists: ConnectionLists,
        draft: StateDraft,
        within: Mapping[str, Sequence[RoomId]],
    ) -> dict[RoomId, _WantedRoom]:
        """Return the rooms that the request selects, in the order of its lists."""
        names: dict[RoomId, tuple[str, ...]] = {}
        slices = Slices()
        for name, room_ids in within.items():
            await slices.rest()
            for room_id in room_ids:
                names[room_id] = (*names[room_id], name) if room_id in names else (name,)
        configs: dict[tuple[str, ...], RoomConfig] = {}
        wanted = {}
        for room_id, selecting in names.items():
            await slices.rest()
            config = configs.get(selecting)
            if config is None:
                requested = pending.request.lists
                config = configs[selecting] = merge_configs(requested[name].config for name in selecting)
            wanted[room_id] = _WantedRoom(selecting, False, config)
        for room_id, config in draft.subscriptions.items():
            if room_id in wanted:
                wanted[room_id].subscribed = True
                wanted[room_id].config = merge_configs((wanted[room_id].config, config))
            elif self._lists.may_subscribe(lists, pending.user, room_id, draft.rooms.__contains__):
                wanted[room_id] = _WantedRoom((), True, config)
        return wanted

    async def _changed_rooms(self, user: SyncUser, draft: StateDraft, span: Span) -> set[RoomId]:
        """Return the rooms that may have updates, of those that the client has been sent."""
        if span.since is None:
            return set()
        if span.since_seq is not None:
            return set(user.changed_since(span.since_seq))
        # Another process gave the last response: one query finds the rooms in which anything happened.
        events, receipts = span.since.vector("events"), span.since.vector("receipts")
        nids = [room.room_nid for room in draft.rooms.values()]
        active = await get_rooms_active_since(self._reads, nids, events.base, receipts.base) if nids else set()
        return {
            room_id
            for room_id, room in draft.rooms.items()
            if room.room_nid in active
            or span.changed(user.memberships[room_id])
            or room_id in user.account_data
            or self._typing.get(room_id) is not None
        }

    async def _build_rooms(self, build: _Build) -> None:
        """Build the results of all rooms, and note in the draft what the client then knows."""
        context, draft = build.context, build.draft
        now, since = context.span.now.vector("events"), context.span.since
        examined = size_bytes = 0
        for room_id, one in build.wanted.items():
            if room_id not in build.changed and build.settled.get(room_id) == one.lists and not one.subscribed:
                continue
            membership = context.user.shown_membership(room_id)
            room = draft.rooms.get(room_id)
            if not now.covers(membership.writer, membership.position):
                build.postponed.add(room_id)
                continue
            complete = room is not None and _is_complete(draft, room, one.config, room_id in context.direct)
            if room is not None and complete and room_id not in build.changed:
                if _lacks(room, _bits(build.pending.extensions, room_id, one)):
                    build.open_rooms.append(room_id)
                continue
            if size_bytes > _MAX_RESPONSE_BYTES:
                build.postponed.add(room_id)
                continue
            examined += 1
            if examined % _ROOMS_PER_SLICE == 0:
                await asyncio.sleep(0)  # results of rooms in memory never yield to other requests by themselves
            known = None
            if room is not None and since is not None:
                known = KnownRoom(room, draft.token_of(room) or since.vector("events"), draft.state_of(room))
            was_member = self._lists.was_member(build.lists, membership, room)
            result, sent = await self._results.build(context, membership, one.config, known, was_member=was_member)
            draft.set(room_id, sent._replace(state=draft.number_of(one.config.required_state)))
            build.open_rooms.append(room_id)
            if result is not None:
                result.lists = one.lists
                build.rooms[room_id] = result
                size_bytes += result.size_bytes
        self._freeze_rooms(build)

    def _freeze_rooms(self, build: _Build) -> None:
        """Freeze the sent rooms whose new events are not in this response at the client's token."""
        context, draft = build.context, build.draft
        if context.span.since is None:
            return
        since = context.span.since.vector("events")
        included = build.wanted.keys() - build.postponed
        for room_id in build.changed:
            room = draft.rooms.get(room_id)
            if room is None or room.token != LIVE or room_id in included:
                continue
            membership = context.user.memberships[room_id]
            traits = self._traits.get(room_id)
            quiet = traits is not None and since.covers(traits.writer, traits.position)
            if not quiet and (membership.membership == "join" or context.span.changed(membership)):
                draft.freeze(room_id, since)

    async def _build_extensions(self, build: _Build) -> None:
        """Build the results of all extensions, and note in the draft of which rooms they were sent."""
        context, draft, pending = build.context, build.draft, build.pending
        covered: dict[RoomId, int] = {}
        for one in pending.extensions:
            in_scope = []
            for room_id in build.open_rooms if one.bit else ():
                room = build.wanted[room_id]
                if one.scope.has(room_id, room.lists, room.subscribed):
                    covered[room_id] = covered.get(room_id, 0) | one.bit
                    in_scope.append(_in_scope(build, room_id, one.bit))
            result = await one.extension.build(
                ExtensionContext(
                    user=context.user,
                    device_id=pending.device_id,
                    span=context.span,
                    reader=context.reader,
                    rooms=in_scope,
                    matched=build.matched,
                ),
                one.parameters,
            )
            if result.body is not None:
                build.extensions[one.extension.name] = result.body
            build.extensions_empty = build.extensions_empty and result.empty
        for room_id in {*build.changed, *covered}:
            sent = draft.rooms.get(room_id)
            if sent is not None:
                bits = covered.get(room_id, 0)
                # After updates out of an extension's scope, what it sent of the room is out of date.
                draft.set(room_id, sent._replace(sent_bits=bits if room_id in build.changed else sent.sent_bits | bits))


def _subscribe(draft: StateDraft, request: SlidingRequest) -> None:
    kept = dict(draft.subscriptions) if request.sticky else {}
    for room_id in request.unsubscribe:
        kept.pop(room_id, None)
    for room_id, config in request.subscriptions.items():
        if kept.get(room_id) != config:
            kept.pop(room_id, None)
            kept[room_id] = config
    draft.subscribe(kept, MAX_SUBSCRIPTIONS)


def _is_complete(draft: StateDraft, room: SentRoom, config: RoomConfig, is_dm: bool) -> bool:
    """Return True if the client has everything that it now wants of a room without updates."""
    if room.token != LIVE or room.is_dm != is_dm:
        return False
    return room.stripped or (config.timeline_limit <= room.limit and draft.state_of(room) == config.required_state)


def _bits(extensions: Iterable[EnabledExtension], room_id: RoomId, room: _WantedRoom) -> int:
    """Return the bits of the extensions that have the room in their scope."""
    return sum(one.bit for one in extensions if one.bit and one.scope.has(room_id, room.lists, room.subscribed))


def _lacks(room: SentRoom, bits: int) -> bool:
    return room.sent_bits & bits != bits


def _settled(build: _Build) -> Mapping[RoomId, tuple[str, ...]]:
    """Return the rooms that need not be examined until they have updates. See `Progress`."""
    settled = build.settled
    moved = any(settled.get(room_id) != build.wanted[room_id].lists for room_id in build.open_rooms)
    if settled and not (moved or build.postponed or build.changed - build.wanted.keys()):
        return settled
    found = {}
    for room_id, one in build.wanted.items():
        room = build.draft.rooms.get(room_id)
        if (
            room is not None
            and not one.subscribed
            and _is_complete(build.draft, room, one.config, room.is_dm)
            and not _lacks(room, _bits(build.pending.extensions, room_id, one))
        ):
            found[room_id] = one.lists
    return found


def _in_scope(build: _Build, room_id: RoomId, bit: int) -> RoomInScope:
    result = build.rooms.get(room_id)
    initial = result is not None and result.initial
    return RoomInScope(
        room_id=room_id,
        membership=build.context.user.shown_membership(room_id),
        was_sent=bool(build.draft.rooms[room_id].sent_bits & bit) and not initial,
        initial=initial,
        timeline=result.events if result is not None else (),
    )
