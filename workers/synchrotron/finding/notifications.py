"""GET /notifications: the events that notified the user, in all their rooms, the latest first.

These are the events that counted as notifications when they arrived. Read ones stay in the list and are marked as read.
Events by senders whom the user ignores now, and events that the user may no longer see, are left out.
Spec: client-server API, "Listing Notifications".
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.core.errors import MatrixError, invalid_param
from shared.core.events.readers import display_name_of, power_levels_of
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import PushEvent, Recipient, RuleSwitches, UserRules, user_rules
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import UnreadSnapshot
from shared.http.endpoint import RateLimit, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import StoredChildEvents, bundle
from shared.rooms.erased_events import strip_erased
from shared.rooms.room_view import RoomView, load_branches, open_room
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import MEMBER, event_of
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import TimelineRow, get_events_by_nid
from shared.storage.push.notifications import (
    END,
    CountedEvents,
    PlacedEvent,
    get_counted_events,
    get_joined_room_ids,
    get_ordinals_from,
    get_placed_events,
)
from shared.storage.push.rules_in_rooms import get_rules_of_users
from shared.storage.push.unread import get_unread_of_rooms
from shared.storage.rooms.public_facts import get_joined_counts
from shared.storage.rooms.state import get_keys_before

_DEFAULT_LIMIT = 20
_MAX_LIMIT = 50
_MIN_EVENTS = 50  # read of each room and source of counts in a step
_MIN_EVENTS_FOR_HIGHLIGHTS = 500  # most events are left out then
_MAX_STEPS = 5  # then the page is short, and the client pages on
_TOKEN = re.compile(r"n1-([0-9]{1,18})", re.ASCII)
_EVERYTHING: Final = Vector(END, END, {})
_CREATE, _POWER_LEVELS = ("m.room.create", ""), ("m.room.power_levels", "")


@dataclass(frozen=True, slots=True)
class _Notification:
    placed: PlacedEvent
    highlights: int


class Notifications:
    """The handler of the endpoint."""

    def __init__(self, database: Database, switches: RuleSwitches, clock: Clock) -> None:
        self._database = database
        self._switches = switches
        self._clock = clock

    @endpoint(
        name="get_notifications",
        method="GET",
        path="/_matrix/client/{version}/notifications",
        pool="room_reads",
        share=Share.HISTORY,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3notifications",
    )
    async def get_notifications(self, request: Request) -> Response:
        """GET /notifications. Raises M_INVALID_PARAM."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=_MAX_LIMIT)
        only_highlights = request.query_choice("only", ("highlight",)) is not None
        token = request.query_text("from")
        match = _TOKEN.fullmatch(token) if token is not None else None
        if token is not None and match is None:
            raise invalid_param("from is not a token of this endpoint")
        user_id = request.user.user_id
        rooms = await get_joined_room_ids(self._database, user_id)
        position = int(match[1]) if match is not None else None
        found, next_position = await self._find(user_id, rooms, position, limit, only_highlights=only_highlights)
        reader = Reader.of(request.user, self._clock.now_ms())
        body: dict[str, Any] = {"notifications": await self._shown(found, rooms, reader)}
        if next_position is not None:
            body["next_token"] = f"n1-{next_position}"
        return json_response(body)

    async def _find(
        self, user_id: UserId, rooms: Mapping[int, RoomId], position: int | None, limit: int, *, only_highlights: bool
    ) -> tuple[list[_Notification], int | None]:
        """Return the latest before a position, and the position to page on from; None at the end."""
        found: list[_Notification] = []
        for _ in range(_MAX_STEPS):
            before = dict.fromkeys(rooms, END)
            if position is not None:
                before = await get_ordinals_from(self._database, rooms, position)
            some, cut = await self._step(user_id, before, limit, only_highlights=only_highlights)
            missing = limit - len(found)
            found += some[:missing]
            if len(some) > missing:
                return found, found[-1].placed.position
            if cut == 0:
                return found, None
            position = cut + 1
            if len(found) == limit:
                break
        return found, position

    async def _step(
        self, user_id: UserId, before: Mapping[int, int], limit: int, *, only_highlights: bool
    ) -> tuple[list[_Notification], int]:
        """Return the latest before these ordinals, and the position down to which they are complete; 0 for all."""
        newest = await get_counted_events(self._database, user_id, before, 1)
        tops = await get_placed_events(self._database, [(nid, max(one.counted)) for nid, one in newest.items()])
        latest = sorted(tops.values(), key=_position, reverse=True)
        # At most `limit` rooms can be part of the page: those with the latest events.
        cut = latest[limit].position if len(latest) > limit else 0
        count = _MIN_EVENTS_FOR_HIGHLIGHTS if only_highlights else max(limit + 1, _MIN_EVENTS)
        chosen = {one.room_nid: before[one.room_nid] for one in latest[:limit]}
        counted = await get_counted_events(self._database, user_id, chosen, count)
        wanted = _notifying(counted, only_highlights=only_highlights)
        edges = [(nid, one.read_down_to) for nid, one in counted.items() if one.read_down_to]
        placed = await get_placed_events(self._database, [*wanted, *edges])
        cut = max([cut, *(placed[edge].position for edge in edges if edge in placed)])
        some = [
            _Notification(event, wanted[place])
            for place, event in placed.items()
            if place in wanted and event.position > cut and event.sender != user_id and not event.is_redacted
        ]
        return sorted(some, key=lambda one: one.placed.position, reverse=True), cut

    async def _shown(
        self, found: Sequence[_Notification], rooms: Mapping[int, RoomId], reader: Reader
    ) -> list[dict[str, Any]]:
        if not found:
            return []
        by_room: dict[int, list[_Notification]] = {}
        for one in found:
            by_room.setdefault(one.placed.room_nid, []).append(one)
        (rules_row,) = await get_rules_of_users(self._database, [reader.user_id]) or (None,)
        rules = user_rules(rules_row.rules if rules_row is not None else b"", self._switches)
        read = await get_unread_of_rooms(self._database, reader.user_id, list(by_room), _EVERYTHING)
        joined = await get_joined_counts(self._database, list(by_room))
        shown: dict[int, dict[str, Any]] = {}
        for nid, some in by_room.items():
            try:
                room = await open_room(self._database, rooms[nid], reader.user_id)
            except MatrixError:
                continue  # the user left and forgot the room meanwhile
            shown.update(await self._shown_in_room(room, some, rules, read[nid], joined.get(nid, 0), reader))
        return [shown[one.placed.event_nid] for one in found if one.placed.event_nid in shown]

    async def _shown_in_room(
        self,
        room: RoomView,
        found: Sequence[_Notification],
        rules: UserRules,
        read: UnreadSnapshot,
        joined: int,
        reader: Reader,
    ) -> dict[int, dict[str, Any]]:
        """Return a room's notifications as the client gets them, by the events' numbers."""
        rows = await get_events_by_nid(self._database, room.room_nid, [one.placed.event_nid for one in found])
        await load_branches(self._database, room, rows)
        stored = {row.event_nid: row for row in rows}
        events = {
            nid: event
            for nid, event in ((nid, room.event(row)) for nid, row in stored.items())
            if room.shows(event) and (room.view.membership_before(event) == "join" or event.state_key == reader.user_id)
        }
        whole = await strip_erased(self._database, room, list(events.values()))
        events = {event.event_nid: event for event in whole}
        bundles = await bundle(whole, StoredChildEvents(self._database, room), reader)
        judge = await _Judge.of(self._database, room, rules, joined, reader.user_id)
        shown = {}
        for one in found:
            event = events.get(one.placed.event_nid)
            if event is not None:
                if rules.is_own:
                    await asyncio.sleep(0)  # a user's own rules may take milliseconds for an event
                mark = max(read.floor, read.marks.get(one.placed.thread_id, 0))
                shown[event.event_nid] = {
                    "room_id": room.room_id,
                    "event": shown_event(event, reader, room.view, relations=bundles.get(event.event_nid)),
                    "actions": judge.actions(stored[event.event_nid], one),
                    "read": event.ordinal <= mark,
                    "ts": event.origin_server_ts,
                }
        return shown


class _Judge:
    """Evaluates a user's current push rules for events of a room."""

    def __init__(
        self,
        room: RoomView,
        rules: UserRules,
        joined: int,
        state: Mapping[tuple[str, str], TimelineRow],
        user_id: UserId,
    ) -> None:
        self._room = room
        self._rules = rules
        self._joined = joined
        events = {key: event_of(room.version, row) for key, row in state.items()}
        self._levels = power_levels_of(room.version, events[_CREATE], events.get(_POWER_LEVELS))
        member = events.get((MEMBER, user_id))
        self._reader = Recipient(user_id, (display_name_of(member) or "") if member is not None else "")

    @classmethod
    async def of(cls, database: Database, room: RoomView, rules: UserRules, joined: int, user_id: UserId) -> "_Judge":
        keys = [_CREATE, _POWER_LEVELS, (MEMBER, user_id)]
        rows = await get_keys_before(database, room.room_nid, room.end + 1, keys)
        return cls(room, rules, joined, {key: row for row in rows if (key := room.event(row).key) is not None}, user_id)

    def actions(self, row: TimelineRow, notification: _Notification) -> list[Any]:
        """Return the actions of the matching rule, if its outcome is that of the event's arrival; else that outcome."""
        event = event_of(self._room.version, row)
        in_thread = bool(notification.placed.thread_id)
        judged = PushEvent(event.pdu, self._room.room_id, self._joined, self._levels, in_thread=in_thread)
        outcome = self._rules.evaluate(judged, self._reader)
        if (outcome.notifies, outcome.highlights) == (1, notification.highlights):
            return list(outcome.actions)
        return ["notify", {"set_tweak": "highlight"}] if notification.highlights else ["notify"]


def _notifying(counted: Mapping[int, CountedEvents], *, only_highlights: bool) -> dict[tuple[int, int], int]:
    """Return highlights by (room_nid, ordinal) of the notifying events, as far down as the counts were read."""
    return {
        (nid, ordinal): min(highlights, 1)
        for nid, one in counted.items()
        for ordinal, (notifies, highlights) in one.counted.items()
        if ordinal > one.read_down_to and notifies > 0 and (highlights > 0 or not only_highlights)
    }


def _position(event: PlacedEvent) -> int:
    return event.position
