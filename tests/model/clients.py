"""Clients that build a view from answers: classic sync with filters, and both forms of sliding sync."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from shared.core.identifiers import RoomId
from tests.model.counts import MAIN
from tests.model.people import Device
from tests.workers.synchrotron.model_client import ModelClient
from tests.workers.synchrotron.sliding_client import DEPLOYED, MERGED, SlidingClient

Counts = dict[str, tuple[int, int]]
#: Timeline filters. Some clients have one of these, some filter by sender, and others show everything.
_FILTERS: tuple[dict[str, Any], ...] = (
    {"types": ["m.room.message", "m.room.member"]},
    {"types": ["m.room.m*"], "not_types": ["m.room.member"]},
    {"not_types": ["m.reaction", "m.room.redaction"]},
)
_LIMITS = (1, 2, 3, 5, 10)


@dataclass(slots=True)
class Elsewhere:
    """A room in which the user is not joined.

    part: the part of /sync: "invite", "knock" or "leave"
    timeline: the events that the client shows of a room that the user has left
    """

    part: str
    section: Any
    timeline: list[str]


@dataclass(slots=True)
class ClassicClient(ModelClient):
    """A client with classic sync.

    device: the same object as `client`
    counts: room id -> latest unread counts of the main timeline and threads
    """

    device: Device | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    elsewhere_saved: dict[str, Elsewhere] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        return self.client.user_id

    @property
    def wanted(self) -> dict[str, Any]:
        """The timeline filter; {} for everything."""
        found: dict[str, Any] = self.page_query.get("filter", {})
        return found

    @property
    def room_filter(self) -> dict[str, Any]:
        found: dict[str, Any] = self.query["filter"]["room"]
        return found

    def save(self) -> None:
        ModelClient.save(self)
        self.elsewhere_saved = dict(self.elsewhere)

    def go_back(self) -> None:
        ModelClient.go_back(self)
        self.elsewhere = dict(self.elsewhere_saved)

    def _gone(self, part: str, room_id: str, section: Any) -> None:
        told = section["timeline"] if part == "leave" else {"events": []}
        ids = [event["event_id"] for event in told["events"]]
        room = self.rooms.pop(room_id, None)
        before = [] if room is None or told.get("limited") else room.timeline
        self.elsewhere[room_id] = Elsewhere(part, section, [*before, *ids])

    async def _take(self, room_id: RoomId, section: Any) -> None:
        self.elsewhere.pop(room_id, None)
        await ModelClient._take(self, room_id, section)
        main = section["unread_notifications"]
        threads = section.get("unread_thread_notifications", {})
        self.counts[room_id] = {
            thread: (each["notification_count"], each["highlight_count"])
            for thread, each in ((MAIN, main), *threads.items())
        }
        for event in section["ephemeral"]["events"]:
            if event["type"] == "m.receipt":
                for kinds in event["content"].values():
                    assert kinds.get("m.read.private", {}).keys() <= {self.user_id}, "another user's private receipt"


@dataclass(slots=True)
class SlidingVillager(SlidingClient):
    """A client with sliding sync. unread: room id -> (notifications, highlights), in the deployed form only."""

    device: Device | None = None
    path: str = MERGED
    unread: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def user_id(self) -> str:
        assert self.device is not None
        return self.device.user_id

    async def ask(self, timeout: int) -> Any:
        assert self.device is not None
        fields = {"timeout": timeout, **({"pos": self.pos} if self.pos is not None else {})}
        if self.path == MERGED:
            answer = self.device.read("POST", MERGED, {**self.body, **fields}, anywhere=True)
        else:
            query = "&".join(f"{key}={value}" for key, value in fields.items())
            answer = self.device.read("POST", f"{DEPLOYED}?{query}", self.body, anywhere=True)
        assert answer.status == 200, answer.body
        return answer.json

    def _take_room(self, room_id: RoomId, told: Any) -> None:
        SlidingClient._take_room(self, room_id, {"membership": self._membership(room_id, told), **told})
        if "notification_count" in told:
            self.unread[room_id] = (told["notification_count"], told["highlight_count"])

    def _membership(self, room_id: str, told: Any) -> str:
        """Return the user's own membership. The deployed form has it only in the events."""
        known = self.rooms.get(room_id)
        found = known.membership if known is not None else ""
        for part in ("timeline", "required_state", "invite_state"):  # the state is that after the timeline
            for event in told.get(part, ()):
                if event["type"] == "m.room.member" and event["state_key"] == self.user_id:
                    found = event["content"]["membership"]
        return found


Client = ClassicClient | SlidingVillager


def classic(device: Device, dice: random.Random, people: Sequence[str]) -> ClassicClient:
    """Return a client with random settings. people: senders that its filter may name."""
    wanted: dict[str, Any] = {}
    if dice.random() < 0.4:
        some = dice.sample(people, 2)
        wanted = dice.choice((*_FILTERS, {"senders": some}, {"not_senders": some}))
    timeline: dict[str, Any] = {"limit": dice.choice(_LIMITS), **wanted}
    if dice.random() < 0.5:
        timeline["unread_thread_notifications"] = True
    lazy = {"lazy_load_members": True} if dice.random() < 0.25 else {}
    room: dict[str, Any] = {"timeline": timeline, "state": lazy}
    if dice.random() < 0.5:
        room["include_leave"] = True
    query: dict[str, Any] = {"filter": {"room": room}}
    if dice.random() < 0.5:
        query["use_state_after"] = True
    page_query = {"filter": wanted} if wanted else {}
    return ClassicClient(device, query, dice.choice((1, 3, 10)), page_query=page_query, device=device)  # type: ignore[arg-type]


def sliding(device: Device, dice: random.Random) -> SlidingVillager:
    """Return a client of either form that requests all rooms with their whole state."""
    path = dice.choice((MERGED, DEPLOYED))
    limit = dice.choice(_LIMITS)
    rooms: dict[str, Any] = {"timeline_limit": limit, "required_state": {"include": [{}]}}
    if path == DEPLOYED:
        rooms = {"timeline_limit": limit, "required_state": [["*", "*"]], "ranges": [[0, 20]]}
    return SlidingVillager(None, {"conn_id": "village", "lists": {"all": rooms}}, device=device, path=path)


def passes(event: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return True if an event passes a timeline filter. Spec: "Filtering", RoomEventFilter."""

    def one_of(patterns: list[str]) -> bool:
        return any(fnmatchcase(event["type"], pattern) for pattern in patterns)

    sender = event["sender"]
    return (
        sender in wanted.get("senders", [sender])
        and sender not in wanted.get("not_senders", [])
        and ("types" not in wanted or one_of(wanted["types"]))
        and not one_of(wanted.get("not_types", []))
    )
