"""One answer of /sync: which rooms have news for this user, and what joins their sections to a whole."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from replication.streams import PUSH_RULES, TO_DEVICE
from shared.core.filters import EventFilter
from shared.core.sync_tokens.stream_token import StreamToken
from shared.runtime.clock import Clock
from shared.storage.read_memberships import RoomMembership, get_memberships_of_user
from shared.storage.read_source import Source
from shared.storage.read_timeline import get_rooms_active_since
from workers.synchrotron.device_section import DeviceSections
from workers.synchrotron.invited_section import stripped_state_of
from workers.synchrotron.joined_section import RoomSections, Span, account_data_events
from workers.synchrotron.lazy_members import SentMembers
from workers.synchrotron.presence import PresenceSections
from workers.synchrotron.room_cache import RoomCache
from workers.synchrotron.shown_event import Reader
from workers.synchrotron.sync_request import SyncRequest
from workers.synchrotron.sync_user import GLOBAL, SyncUser
from workers.synchrotron.tokens import Tokens, format_sync_token
from workers.synchrotron.unread_counts import UnreadCounts
from workers.synchrotron.user_rooms import UserRooms

_PUSH_RULES = "m.push_rules"
_ROOMS_AT_A_TIME = 10
_MANY_ROOMS = 20  # from so many candidates on, one query first tells which of them have news at all


@dataclass(frozen=True, slots=True)
class Answer:
    """empty: there is nothing in it for which the client should not wait; waits: and yet something that it must be

    told with the next answer that it gets.
    """

    token: StreamToken
    text: str
    seq: int
    body: bytes
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
        rooms = await self._room_sections(user, candidates, span, request, reader, sent)
        account_data = (
            global_account_data(user, span, request.filter.account_data) if global_news or span.full_state else []
        )
        devices = await self._devices.build(user, request.device_id, span)
        presence = await self._presence.build(user, span, request.filter.presence, reader.now_ms)
        token = StreamToken({**now.vectors, TO_DEVICE.name: devices.inbox})
        text = format_sync_token(token)
        body = {
            "next_batch": text,
            "rooms": rooms,
            "account_data": {"events": account_data},
            "presence": {"events": presence.events},
            **devices.parts,
        }
        empty = not account_data and not any(rooms.values()) and devices.empty and not presence.urgent
        return Answer(token, text, seq, orjson.dumps(body), empty, bool(presence.events))

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

    async def _room_sections(
        self, user: SyncUser, candidates: Sequence[RoomMembership], span: Span, request: SyncRequest, reader: Reader,
        sent: SentMembers | None,
    ) -> dict[str, dict[str, Any]]:  # fmt: skip
        filter = request.filter
        sections: dict[str, dict[str, Any]] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        ignored = user.ignored_users
        left: list[RoomMembership] = []
        joined = [one for one in candidates if one.membership == "join" and filter.room.match_room(one.room_id)]
        await self._unread.prepare(user, joined, span.now.vector("events"))
        for number, one in enumerate(candidates, start=1):
            if number % _ROOMS_AT_A_TIME == 0:
                await asyncio.sleep(0)  # rooms in memory ask nobody: let others have a turn
            room_id = one.room_id
            if not filter.room.match_room(room_id):
                continue
            if one.membership == "join":
                section = await self._sections.joined(
                    user, one, span, filter, reader, sent, state_after=request.state_after
                )
                if section is not None:
                    sections["join"][room_id] = section
            elif one.membership in ("invite", "knock"):
                if span.changed(one) and not (one.membership == "invite" and one.sender in ignored):
                    events = await stripped_state_of(self._rooms, user.user_id, one)
                    if events is not None:
                        sections[one.membership][room_id] = {f"{one.membership}_state": {"events": events}}
            elif (filter.room.include_leave and not one.forgotten) if span.since is None else span.changed(one):
                left.append(one)
        for one in await self._not_forgotten(user, left, span):
            section = await self._sections.left(user, one, span, filter, reader, sent, state_after=request.state_after)
            if section is not None:
                sections["leave"][one.room_id] = section
        return sections

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
