"""matrix-nio in this process, with an application's loop around it: sync, notice gaps, page them in."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import nio

from tests.fleet.clients.chat_client import ClientError, RoomView, SeenEvent, View

_SYNC_TIMEOUT_MS = 20_000
_POLL_S = 0.05
_PAGE_EVENTS = 100
_SEEN_LIMIT_S = 20.0


@dataclass(slots=True)
class _Segment:
    """Events without a gap between them.

    before: the token to page back from; None when the segment begins with the room's first event
    """

    before: str | None
    events: list[Any]


class NioClient:
    """One matrix-nio client; implements ChatClient."""

    def __init__(self, url: str, username: str) -> None:
        self.username = username
        self.user_id = ""
        self._client = nio.AsyncClient(
            url, username, config=nio.AsyncClientConfig(encryption_enabled=False, max_timeouts=2, request_timeout=40)
        )
        self._memberships: dict[str, str] = {}
        self._been_in: set[str] = set()
        self._segments: dict[str, list[_Segment]] = {}
        self._delivered: Counter[str] = Counter()
        self._faults: list[str] = []
        self._syncing: asyncio.Task[None] | None = None

    async def register(self, password: str) -> None:
        answer = await self._client.register(self.username, password)
        self._take_account(answer, nio.RegisterResponse)

    async def login(self, password: str) -> None:
        self._take_account(await self._client.login(password), nio.LoginResponse)

    def _take_account(self, answer: Any, expected: type[Any]) -> None:
        self.user_id = str(_checked(answer, expected).user_id)

    async def start(self, timeline_limit: int) -> None:
        """Make the initial sync, then keep syncing in the background."""
        sync_filter = {"room": {"timeline": {"limit": timeline_limit}}}
        self._take(_checked(await self._client.sync(timeout=0, sync_filter=sync_filter), nio.SyncResponse))
        self._syncing = asyncio.create_task(self._sync(sync_filter))

    async def stop(self) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._syncing
        await self._client.close()

    async def create_room(self, options: dict[str, Any]) -> str:
        preset = options.get("preset")
        answer = await self._client.room_create(
            alias=options.get("room_alias_name"),
            name=options.get("name"),
            topic=options.get("topic"),
            room_version=options.get("room_version"),
            preset=nio.RoomPreset(preset) if preset else None,
            invite=options.get("invite", ()),
        )
        return str(_checked(answer, nio.RoomCreateResponse).room_id)

    async def join(self, room_or_alias: str) -> str:
        return str(_checked(await self._client.join(room_or_alias), nio.JoinResponse).room_id)

    async def leave(self, room: str) -> None:
        _checked(await self._client.room_leave(room), nio.RoomLeaveResponse)

    async def forget(self, room: str) -> None:
        _checked(await self._client.room_forget(room), nio.RoomForgetResponse)
        self._memberships.pop(room, None)
        self._segments.pop(room, None)

    async def invite(self, room: str, invitee: str) -> None:
        _checked(await self._client.room_invite(room, invitee), nio.RoomInviteResponse)

    async def send(self, room: str, body: str, transaction_id: str) -> str:
        content = {"msgtype": "m.text", "body": body}
        answer = await self._client.room_send(room, "m.room.message", content, tx_id=transaction_id)
        return str(_checked(answer, nio.RoomSendResponse).event_id)

    send_again = send

    async def set_state(self, room: str, event_type: str, content: dict[str, Any]) -> str:
        answer = await self._client.room_put_state(room, event_type, content)
        return str(_checked(answer, nio.RoomPutStateResponse).event_id)

    async def redact(self, room: str, event: str) -> str:
        return str(_checked(await self._client.room_redact(room, event), nio.RoomRedactResponse).event_id)

    async def set_typing(self, room: str, typing: bool) -> None:
        _checked(await self._client.room_typing(room, typing, 30_000), nio.RoomTypingResponse)

    async def send_receipt(self, room: str, event: str) -> None:
        await _until(lambda: event in self._delivered, _SEEN_LIMIT_S, f"{self.username} sees {event}")
        _checked(await self._client.update_receipt_marker(room, event), nio.UpdateReceiptMarkerResponse)

    async def joined_rooms(self) -> set[str]:
        return set(_checked(await self._client.joined_rooms(), nio.JoinedRoomsResponse).rooms)

    async def wait_membership(self, room: str, membership: str, timeout_s: float) -> None:
        await _until(
            lambda: self._memberships.get(room) == membership, timeout_s, f"{self.username}: {membership} of {room}"
        )

    async def wait_typing(self, room: str, user: str, typing: bool, timeout_s: float) -> None:
        await _until(
            lambda: (user in self._client.rooms[room].typing_users) == typing,
            timeout_s,
            f"{self.username} sees typing={typing} of {user}",
        )

    async def view(self, rooms: Iterable[str]) -> View:
        views = {room: await self._room_view(room) for room in rooms}
        doubled = (f"{event} was delivered twice" for event, count in self._delivered.items() if count > 1)
        return View(views, (*self._faults, *doubled))

    async def history(self, room: str) -> list[str]:
        """Return all event ids of a room, oldest first, in the server's order."""
        events: list[str] = []
        token: str | None = None
        while True:
            page = await self._page(room, token, nio.MessageDirection.front)
            events += [event.event_id for event in page.chunk]
            token = page.end
            if token is None or not page.chunk:
                return events

    async def _sync(self, sync_filter: dict[str, Any]) -> None:
        while True:
            answer = await self._client.sync(timeout=_SYNC_TIMEOUT_MS, sync_filter=sync_filter)
            if isinstance(answer, nio.SyncResponse):
                self._take(answer)
            else:
                self._faults.append(f"/sync answered {answer}")
                await asyncio.sleep(0.5)

    def _take(self, answer: nio.SyncResponse) -> None:
        for room in answer.rooms.invite:
            self._memberships[room] = "invite"
        for membership, rooms in (("join", answer.rooms.join), ("leave", answer.rooms.leave)):
            for room, info in rooms.items():
                self._take_timeline(room, info.timeline, fresh=self._memberships.get(room) != "join")
                self._memberships[room] = membership
                if membership == "join":
                    self._been_in.add(room)
                for event in (*info.state, *info.timeline.events):
                    if isinstance(event, nio.BadEvent | nio.UnknownBadEvent):
                        self._faults.append(f"nio refuses an event: {event.source}")

    def _take_timeline(self, room: str, timeline: Any, *, fresh: bool) -> None:
        self._delivered.update(event.event_id for event in timeline.events)
        segments = self._segments.setdefault(room, [])
        if timeline.limited or fresh or not segments:
            segments.append(_Segment(timeline.prev_batch, []))
        segments[-1].events += timeline.events

    async def _room_view(self, room: str) -> RoomView | None:
        membership = self._memberships.get(room)
        if membership is None:
            return None
        shown = self._client.rooms.get(room)
        # A former member may page back from where they left. A user who was never a member sees nothing.
        events = await self._all_events(room) if room in self._been_in else self._known_events(room)
        redacted = {event.redacts for event in events if isinstance(event, nio.RedactionEvent)}
        return RoomView(
            membership=membership,
            events=tuple(_seen(event, event.event_id in redacted) for event in events),
            members={user.user_id: "invite" if user.invited else "join" for user in shown.users.values()}
            if shown
            else {},
            name=shown.name if shown else None,
            topic=shown.topic if shown else None,
            receipts=_receipts(shown) if shown else {},
        )

    def _known_events(self, room: str) -> list[Any]:
        return [event for segment in self._segments.get(room, []) for event in segment.events]

    async def _all_events(self, room: str) -> list[Any]:
        """Fill the gaps, newest first, and return one list of events."""
        segments = self._segments[room]
        for index in range(len(segments) - 1, -1, -1):
            segment = segments[index]
            known = {event.event_id for earlier in segments[:index] for event in earlier.events}
            later = {event.event_id for event in segment.events}
            while segment.before is not None:
                page = await self._page(room, segment.before, nio.MessageDirection.back)
                if twice := [event.event_id for event in page.chunk if event.event_id in later]:
                    self._faults.append(f"{room}: paging back from {segment.before} returned later events: {twice}")
                later.update(event.event_id for event in page.chunk)
                new = _until_known(page.chunk, known)
                segment.events[:0] = reversed(new)
                met = len(new) < len(page.chunk)
                segment.before = None if met or not page.chunk else page.end
        return self._known_events(room)

    async def _page(self, room: str, start: str | None, direction: nio.MessageDirection) -> nio.RoomMessagesResponse:
        answer = await self._client.room_messages(room, start, direction=direction, limit=_PAGE_EVENTS)
        return _checked(answer, nio.RoomMessagesResponse)


def _until_known(events: Iterable[Any], known: set[str]) -> list[Any]:
    return list(itertools.takewhile(lambda event: event.event_id not in known, events))


def _seen(event: Any, redacted: bool) -> SeenEvent:
    body = event.source.get("content", {}).get("body")
    return SeenEvent(event.event_id, event.sender, event.source["type"], None if redacted else body)


def _receipts(room: nio.MatrixRoom) -> dict[str, str]:
    """Return the latest receipt of each user, unthreaded or for the main timeline."""
    receipts = {user: receipt.event_id for user, receipt in room.read_receipts.items()}
    for user, threads in room.threaded_read_receipts.items():
        if main := threads.get("main"):
            receipts[user] = main.event_id
    return receipts


def _checked(answer: Any, expected: type[Any]) -> Any:
    if isinstance(answer, expected):
        return answer
    status = getattr(getattr(answer, "transport_response", None), "status", None)
    raise ClientError(f"{type(answer).__name__} {answer}", status, getattr(answer, "status_code", None))


async def _until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until the condition holds: the libraries have no event for some of the conditions."""
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > end:
            raise ClientError(f"did not happen within {timeout_s} s: {what}")
        await asyncio.sleep(_POLL_S)
