"""One answer of /sync: which rooms have news for this user, and what joins their sections to a whole."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from replication.streams import PUSH_RULES, TO_DEVICE
from shared.core.filters import EventFilter
from shared.core.sync_tokens.stream_token import StreamToken
from shared.rooms.shown_event import Reader
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import get_rooms_active_since
from shared.storage.rooms.memberships import RoomMembership, get_memberships_of_user
from workers.synchrotron.classic.answer_pieces import Section, body_pieces, body_without_rooms, whole_or_pieces
from workers.synchrotron.classic.sync_request import SyncRequest
from workers.synchrotron.devices.device_section import DeviceSections
from workers.synchrotron.presence.presence import PresenceSections
from workers.synchrotron.rooms.room_cache import ROOMS_AT_ONCE, RoomCache
from workers.synchrotron.rooms.room_reader import Wanted
from workers.synchrotron.rooms.state_blocks import section_parts
from workers.synchrotron.sections.invited_section import stripped_state_of
from workers.synchrotron.sections.joined_section import RoomSections, Span, account_data_events
from workers.synchrotron.users.lazy_members import SentMembers
from workers.synchrotron.users.sync_user import GLOBAL, SyncUser
from workers.synchrotron.users.unread_counts import UnreadCounts
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.sync_tokens import Tokens

_PUSH_RULES = "m.push_rules"
_SLICE_S = 0.001  # of work between two moments at which others have a turn
_MANY_ROOMS = 20  # from so many candidates on, one query first tells which of them have news at all


@dataclass(frozen=True, slots=True)
class Answer:
    """empty: there is nothing in it for which the client should not wait; waits: and yet something that it must be

    told with the next answer that it gets. body: whole, or the pieces of a long one, made as they are sent.
    """

    token: StreamToken
    text: str
    seq: int
    body: bytes | AsyncGenerator[bytes, None]
    empty: bool
    waits: bool = False


class SyncAnswers:
    def __init__(
        self,
        tokens: Tokens,
        users: UserRooms,
        rooms: RoomCache,
        sections: RoomSections,
        unread: UnreadCounts,
        devices: DeviceSections,
        presence: PresenceSections,
        reads: Source,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._users = users
        self._rooms = rooms
        self._sections = sections
        self._unread = unread
        self._devices = devices
        self._presence = presence
        self._reads = reads
        self._clock = clock

    async def build(
        self, request: SyncRequest, user: SyncUser, since: StreamToken | None, since_text: str | None,
        sent: SentMembers | None,
    ) -> Answer:  # fmt: skip
        """Return what happened between the token and now, or everything without one."""
        # No await between these: the vectors, the number and the memberships are of one moment.
        now = self._tokens.now()
        seq = self._users.seq
        since_seq = None if since_text is None else user.seq_of(since_text)
        span = Span(since, now, since_seq, request.full_state)
        candidates, global_news = _candidates(user, span)
        reader = Reader(user.user_id, request.device_id, self._clock.now_ms(), request.filter.event_fields)

        if span.since is not None and since_seq is None:
            candidates = await self._with_news(user, candidates, span)
        account_data = (
            global_account_data(user, span, request.filter.account_data) if global_news or span.full_state else []
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
            **devices.parts,
        }
        first: Section | None = None
        body: bytes | AsyncGenerator[bytes, None]
        if candidates:
            sections = self._sections_of(user, candidates, span, request, reader, sent)
            first = await anext(sections, None)
            body = await whole_or_pieces(body_pieces(head, first, sections))
        else:  # the first look of nearly every long poll
            body = body_without_rooms(head)
        empty = not account_data and first is None and devices.empty and not presence.urgent
        return Answer(token, text, seq, body, empty, bool(presence.events))

    def is_behind(self, answer: Answer) -> bool:
        """Return whether anything came since for which nobody is woken, so that the last look must be a new one."""
        return self._presence.has_changed_since(answer.seq)

    async def _with_news(self, user: SyncUser, candidates: list[RoomMembership], span: Span) -> list[RoomMembership]:
        """Leave out rooms in which nothing happened since a token that this process knows nothing about."""
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
            or self._sections.has_typing(one.room_id)
        ]

    async def _sections_of(
        self, user: SyncUser, candidates: Sequence[RoomMembership], span: Span, request: SyncRequest, reader: Reader,
        sent: SentMembers | None,
    ) -> AsyncIterator[Section]:  # fmt: skip
        """Yield what there is to tell of each room, in the order of KINDS."""
        wanted = request.filter.room
        candidates = [one for one in candidates if wanted.match_room(one.room_id)]
        joined = [one for one in candidates if one.membership == "join"]
        async for section in self._joined(user, joined, span, request, reader, sent):
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
                events = await stripped_state_of(self._rooms, user.user_id, one)
                if events is not None:
                    yield Section(kind, one.room_id, (orjson.dumps({f"{kind}_state": {"events": events}}),))
        left = [
            one
            for one in candidates
            if one.membership not in ("join", "invite", "knock")
            and ((wanted.include_leave and not one.forgotten) if span.since is None else span.changed(one))
        ]
        left += [before for one in hidden if (before := await self._left_before(user, one, span)) is not None]
        for one in await self._not_forgotten(user, left, span):
            found = await self._sections.left(
                user, one, span, request.filter, reader, sent, state_after=request.state_after
            )
            if found is not None:
                yield Section("leave", one.room_id, (orjson.dumps(found),))

    async def _joined(
        self, user: SyncUser, joined: Sequence[RoomMembership], span: Span, request: SyncRequest, reader: Reader,
        sent: SentMembers | None,
    ) -> AsyncIterator[Section]:  # fmt: skip
        await self._unread.prepare(user, joined, span.now.vector("events"))
        whole = span.since is None or span.full_state
        everybody = whole and not request.filter.room.state.lazy_load_members
        members = Wanted(user.user_id if whole else None, everybody)
        began_s = self._clock.monotonic_s()
        for number, one in enumerate(joined):
            if number % ROOMS_AT_ONCE == 0 and len(joined) > 1:
                # No sooner: with many rooms the first of them may have left the memory when their turn comes.
                await self._rooms.prepare([each.room_id for each in joined[number : number + ROOMS_AT_ONCE]], members)
            section = await self._sections.joined(
                user, one, span, request.filter, reader, sent, state_after=request.state_after
            )
            if section is not None:
                yield Section("join", one.room_id, section_parts(section))
            if self._clock.monotonic_s() - began_s > _SLICE_S:
                await asyncio.sleep(0)  # rooms in memory ask nobody
                began_s = self._clock.monotonic_s()

    async def _left_before(self, user: SyncUser, invite: RoomMembership, span: Span) -> RoomMembership | None:
        """Return how the user left the room, if that was between the token and an invite that is hidden from him."""
        room = await self._rooms.get(invite.room_id) if span.since is not None else None
        if room is None or span.since is None:
            return None
        base = await self._rooms.ordinal_at(room, span.since.vector("events"))
        history = await self._rooms.member_history(room, user.user_id, base)
        left = [one for one in history if base < one[0] < invite.ordinal and one[1] in ("leave", "ban")]
        return replace(invite, ordinal=left[-1][0], membership=left[-1][1]) if left else None

    async def _not_forgotten(self, user: SyncUser, left: list[RoomMembership], span: Span) -> list[RoomMembership]:
        """Forgetting is in no stream, so an initial sync with left rooms asks. Who has just left must be told."""
        if span.since is not None or not left:
            return left
        stored = await get_memberships_of_user(self._reads, user.user_id)
        forgotten = {one.room_id for one in stored if one.forgotten}
        return [one for one in left if one.room_id not in forgotten]


def _candidates(user: SyncUser, span: Span) -> tuple[list[RoomMembership], bool]:
    """Return the rooms that may have news, and whether account data of no room may."""
    if span.since_seq is None:
        return list(user.memberships.values()), True
    changed = user.changed_since(span.since_seq)
    rooms = dict.fromkeys(changed)
    if span.full_state:
        rooms.update(dict.fromkeys(user.memberships))
    return [user.memberships[room_id] for room_id in rooms if room_id in user.memberships], GLOBAL in rooms


def global_account_data(user: SyncUser, span: Span, wanted: EventFilter) -> list[Any]:
    """Return the account data of no room that belongs into the answer."""
    events = account_data_events(user, GLOBAL, span, wanted, everything=span.since is None)
    rules = user.push_rules
    # Always the whole set. Spec: push notifications, "Push Rules: Events".
    fresh = span.since is None or span.is_new(PUSH_RULES.name, rules.writer, rules.position)
    if fresh and wanted.match_type(_PUSH_RULES):
        events.append({"type": _PUSH_RULES, "content": user.get_ruleset()})
    return events
