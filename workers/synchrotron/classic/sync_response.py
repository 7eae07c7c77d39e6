"""One response of GET /sync: the rooms with updates for a user, and the parts that belong to no room."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace

import orjson

from replication.streams import TO_DEVICE
from shared.core.rows import GLOBAL
from shared.core.sync_tokens.stream_token import StreamToken
from shared.rooms.shown_event import Reader
from shared.rooms.timeline_event import MEMBER
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import get_rooms_active_since
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.classic.response_pieces import Section, body_pieces, body_without_rooms, whole_or_pieces
from workers.synchrotron.classic.sync_request import SyncRequest
from workers.synchrotron.devices.device_section import DeviceSections
from workers.synchrotron.presence.section import PresenceSections
from workers.synchrotron.rooms.room_cache import ROOMS_PER_READ, RoomCache
from workers.synchrotron.rooms.room_loader import WantedMembers
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.rooms.state_blocks import section_parts
from workers.synchrotron.rooms.typing_rooms import TypingRooms
from workers.synchrotron.sections.account_data import global_account_data
from workers.synchrotron.sections.room_sections import RoomSections, SectionContext
from workers.synchrotron.sections.span import Span
from workers.synchrotron.sections.stripped_state import StrippedStates
from workers.synchrotron.sections.timelines import RoomTimelines
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import LEFT, SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.sync_tokens import SyncTokens

_SLICE_S = 0.001  # of work between two moments at which other requests run
_MANY_ROOMS = 20  # from this many candidates on, one query first finds those with updates


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncResponse:
    """A response as built."""

    token: StreamToken
    text: str
    seq: int
    #: Whole, or the pieces of a long one, made while they are sent.
    body: bytes | AsyncGenerator[bytes, None]
    #: True if nothing in it is worth a response before the timeout.
    empty: bool
    #: True if it has updates that are sent with the next response, but are not worth one of their own.
    has_deferred: bool = False


class SyncResponses:
    """Builds responses."""

    def __init__(
        self,
        *,
        tokens: SyncTokens,
        users: UserCache,
        rooms: RoomCache,
        lookups: RoomLookups,
        timelines: RoomTimelines,
        sections: RoomSections,
        stripped: StrippedStates,
        typing: TypingRooms,
        unread: UnreadCounts,
        devices: DeviceSections,
        presence: PresenceSections,
        reads: Source,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._users = users
        self._rooms = rooms
        self._lookups = lookups
        self._timelines = timelines
        self._sections = sections
        self._stripped = stripped
        self._typing = typing
        self._unread = unread
        self._devices = devices
        self._presence = presence
        self._reads = reads
        self._clock = clock

    async def build(
        self,
        request: SyncRequest,
        user: SyncUser,
        since: StreamToken | None,
        since_text: str | None,
        sent: SentMembers | None,
    ) -> SyncResponse:
        """Return the updates between a token and now, or everything without a token."""
        # No await between these: the vectors, the seq and the memberships are of one moment.
        now = self._tokens.now()
        seq = self._users.seq
        since_seq = None if since_text is None else user.seq_of(since_text)
        span = Span(since, now, since_seq, request.full_state)
        candidates, has_global = _candidates(user, span)
        reader = Reader(
            user.user_id,
            request.device_id,
            self._clock.now_ms(),
            request.filter.event_fields,
            device_created_ms=request.device_created_ms,
        )

        if span.since is not None and since_seq is None:
            candidates = await self._with_updates(user, candidates, span)
        account_data = (
            global_account_data(user, span, request.filter.account_data) if has_global or span.full_state else []
        )
        devices = await self._devices.build(user, request.device_id, span)
        presence = await self._presence.build(user, span, request.filter.presence, reader.now_ms)
        whole = devices.inbox is now.vector(TO_DEVICE.name)
        token = now if whole else StreamToken({**now.vectors, TO_DEVICE.name: devices.inbox})
        text = self._tokens.text(token)
        head = {
            "next_batch": text,
            "account_data": {"events": account_data},
            "presence": {"events": presence.events},
            **devices.fields,
        }
        first: Section | None = None
        body: bytes | AsyncGenerator[bytes, None]
        if candidates:
            context = SectionContext(
                user=user,
                span=span,
                filter=request.filter,
                reader=reader,
                sent=sent,
                state_after=request.state_after,
            )
            sections = self._room_sections(context, candidates)
            first = await anext(sections, None)
            body = await whole_or_pieces(body_pieces(head, first, sections))
        else:  # the first response of nearly every long poll
            body = body_without_rooms(head)
        return SyncResponse(
            token=token,
            text=text,
            seq=seq,
            body=body,
            empty=not account_data and first is None and devices.empty and not presence.urgent,
            has_deferred=bool(presence.events),
        )

    def is_outdated(self, response: SyncResponse) -> bool:
        """Return True if updates came since that wake no request, so that the response must be built again."""
        return self._presence.has_changed_since(response.seq)

    async def _with_updates(self, user: SyncUser, candidates: list[RoomMembership], span: Span) -> list[RoomMembership]:
        """Leave out the rooms without updates since a token that this process does not remember."""
        assert span.since is not None
        joined = [one for one in candidates if one.membership == "join"]
        if len(joined) < _MANY_ROOMS or span.full_state:
            return candidates
        events, receipts = span.since.vector("events"), span.since.vector("receipts")
        active = await get_rooms_active_since(self._reads, [one.room_nid for one in joined], events.base, receipts.base)
        return [
            one
            for one in candidates
            if one.membership != "join"
            or one.room_nid in active
            or span.changed(one)
            or one.room_id in user.account_data
            or self._typing.get(one.room_id) is not None
        ]

    async def _room_sections(
        self, context: SectionContext, candidates: Sequence[RoomMembership]
    ) -> AsyncIterator[Section]:
        """Yield the sections of all rooms in the order of KINDS."""
        user, span, wanted = context.user, context.span, context.filter.room
        candidates = [one for one in candidates if wanted.match_room(one.room_id)]
        joined = [one for one in candidates if one.membership == "join"]
        async for section in self._joined(context, joined):
            yield section
        if len(joined) == len(candidates):
            return
        hidden = []
        for kind in ("invite", "knock"):
            for one in candidates:
                if one.membership != kind or not span.changed(one):
                    continue
                if kind == "invite" and user.hides_invites_of(one.sender):
                    hidden.append(one)
                    continue
                events = await self._stripped.get(user.user_id, one)
                if events is not None:
                    yield Section(kind, one.room_id, (orjson.dumps({f"{kind}_state": {"events": events}}),))
        left = [one for one in candidates if one.membership in LEFT and (span.since is None or span.changed(one))]
        if span.since is None and not wanted.include_leave:
            left = []
        if left and (span.since is None or user.may_have_forgotten):
            await self._users.learn_forgotten(user)
        left = [
            one
            for one in left
            if not user.memberships.get(one.room_id, one).forgotten or not await self._knew_left(user, one, span)
        ]
        left += [before for one in hidden if (before := await self._left_before(user, one, span)) is not None]
        for one in left:
            invite = await self._hidden_invite(user, one)
            shown = one if invite is None else await self._left_before(user, invite, span)
            found = None if shown is None else await self._sections.left(context, shown)
            if found is not None:
                yield Section("leave", one.room_id, (orjson.dumps(found),))

    async def _joined(self, context: SectionContext, joined: Sequence[RoomMembership]) -> AsyncIterator[Section]:
        user, span = context.user, context.span
        await self._unread.preload(user, joined, span.now.vector("events"))
        whole = span.since is None or span.full_state
        everybody = whole and not context.filter.room.state.lazy_load_members
        members = WantedMembers(user.user_id if whole else None, everybody)
        began_s = self._clock.monotonic_s()
        for number, one in enumerate(joined):
            if number % ROOMS_PER_READ == 0 and len(joined) > 1:
                # In batches: of many rooms the first might be evicted before their sections are built.
                await self._rooms.preload([each.room_id for each in joined[number : number + ROOMS_PER_READ]], members)
            section = await self._sections.joined(context, one)
            if section is not None:
                yield Section("join", one.room_id, section_parts(section))
            if self._clock.monotonic_s() - began_s > _SLICE_S:
                await asyncio.sleep(0)  # sections of rooms in memory never yield to other requests by themselves
                began_s = self._clock.monotonic_s()

    async def _left_before(self, user: SyncUser, invite: RoomMembership, span: Span) -> RoomMembership | None:
        """Return the leave between the client's token and an invitation that is hidden from the user, if any."""
        room = await self._rooms.get(invite.room_id) if span.since is not None else None
        if room is None or span.since is None:
            return None
        base = await self._lookups.ordinal_at(room, span.since.vector("events"))
        history = await self._lookups.member_history(room, user.user_id, base)
        left = [one for one in history if base < one[0] < invite.ordinal and one[1] in ("leave", "ban")]
        return replace(invite, ordinal=left[-1][0], membership=left[-1][1]) if left else None

    async def _hidden_invite(self, user: SyncUser, left: RoomMembership) -> RoomMembership | None:
        """Return the invitation that this membership ended, if it was hidden from the user: so is its end, then."""
        room = await self._rooms.get(left.room_id)
        if room is None:
            return None
        key = (MEMBER, user.user_id)
        invite = (await self._lookups.keys_before(room, left.ordinal, [key])).get(key)
        if invite is None or invite.membership != "invite" or not user.hides_invites_of(invite.sender):
            return None
        assert invite.ordinal is not None
        return replace(left, ordinal=invite.ordinal, membership="invite", sender=invite.sender)

    async def _knew_left(self, user: SyncUser, left: RoomMembership, span: Span) -> bool:
        """Return True if the client knew before that the user had left the room: nothing since then is news."""
        room = None if span.since is None else await self._rooms.get(left.room_id)
        if room is None or span.since is None:
            return True
        return await self._timelines.was_out_at(room, user, span.since.vector("events"))


def _candidates(user: SyncUser, span: Span) -> tuple[list[RoomMembership], bool]:
    """Return the rooms that may have updates, and True if global account data may."""
    if span.since_seq is None:
        return list(user.memberships.values()), True
    changed = user.changed_since(span.since_seq)
    rooms = dict.fromkeys(changed)
    if span.full_state:
        rooms.update(dict.fromkeys(user.memberships))
    return [user.memberships[room_id] for room_id in rooms if room_id in user.memberships], GLOBAL in rooms
