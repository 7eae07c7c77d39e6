"""The model: rooms as lists of events, their visibility, and the notifications of each event.

The warden, a member who sees everything, reads the room's events, and they are added in order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.model.counts import MAIN, Judged, Reading
from tests.model.rules import UserRules, outcome
from tests.workers.synchrotron.naive_rooms import NaiveRoom

_MEMBER = "m.room.member"


@dataclass(slots=True)
class Member:
    """A user in the model.

    ever_ignored, ever_forgotten: include former entries
    tags: room id -> tags
    """

    rules: UserRules = field(default_factory=UserRules)
    ignores: set[str] = field(default_factory=set)
    ever_ignored: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    ever_forgotten: set[str] = field(default_factory=set)
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def forget(self, room_id: str) -> None:
        self.forgotten.add(room_id)
        self.ever_forgotten.add(room_id)


@dataclass(slots=True)
class Room:
    """A room in the model. erased_at: erased user -> number of events at that moment."""

    room_id: str
    naive: NaiveRoom = field(default_factory=NaiveRoom)
    judged: list[Judged] = field(default_factory=list)
    index_of: dict[str, int] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    erased_at: dict[str, int] = field(default_factory=dict)
    _visible: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def state(self) -> dict[tuple[str, str], dict[str, Any]]:
        return self.naive.after[-1] if self.naive.after else {}

    def membership(self, user_id: str) -> str:
        return self.naive.membership(self.state(), user_id)

    @property
    def predecessor(self) -> str | None:
        """The room that was upgraded to this one."""
        found: str | None = self.naive.events[0]["content"].get("predecessor", {}).get("room_id")
        return found

    def member_index(self, user_id: str) -> int | None:
        """Return the index of the user's current membership event."""
        event = self.state().get((_MEMBER, user_id))
        return None if event is None else self.index_of[event["event_id"]]

    def visible(self, user_id: str) -> list[str]:
        """Return the ids of the events that a user may see, in order."""
        known = self._visible.get(user_id)
        if known is None or known[0] != len(self.judged):
            known = self._visible[user_id] = (len(self.judged), self.naive.visible(user_id))
        return known[1]

    def event(self, event_id: str) -> dict[str, Any]:
        return self.naive.events[self.index_of[event_id]]

    def name(self, user_id: str) -> str:
        """Return the display name of a member, "" for none."""
        event = self.state().get((_MEMBER, user_id))
        return "" if event is None else event["content"].get("displayname") or ""

    def joined(self) -> list[str]:
        return [key[1] for key, event in self.state().items() if key[0] == _MEMBER and _joined(event)]

    def take(self, event: dict[str, Any], people: Mapping[str, Member]) -> None:
        """Add the room's next event."""
        before = dict(self.state())
        after = dict(before)
        index = len(self.judged)
        if "state_key" in event:
            after[event["type"], event["state_key"]] = event
            if event["type"] == _MEMBER and event["content"]["membership"] in ("join", "invite", "knock"):
                people.get(event["state_key"], Member()).forgotten.discard(self.room_id)
            if event["type"] == _MEMBER and _joined(event):
                old = before.get((_MEMBER, event["state_key"]))
                if old is None or not _joined(old):
                    self.readings.setdefault(event["state_key"], Reading()).joined_at = index
        self.naive.events.append(event)
        self.naive.before.append(before)
        self.naive.after.append(after)
        joined = self.joined()
        concerned = [*joined, event["state_key"]] if _invites(event) else joined
        may_notify_room = self._level(before, event["sender"]) >= 50
        outcomes = {
            user_id: outcome(
                people[user_id].rules,
                user_id,
                self.room_id,
                event,
                name=self.name(user_id),
                joined=len(joined),
                may_notify_room=may_notify_room,
            )
            for user_id in concerned
            if user_id in people
        }
        ignored_by = frozenset(who for who in concerned if who in people and event["sender"] in people[who].ignores)
        self.judged.append(Judged(event, self._thread(event), outcomes, ignored_by))
        self.index_of[event["event_id"]] = index
        if event["type"] == "m.room.redaction":
            target = event.get("redacts") or event["content"].get("redacts")
            if target in self.index_of:
                self.judged[self.index_of[target]].redacted = True

    def read(self, user_id: str, event_id: str, thread: str) -> None:
        """Add a receipt that the server accepted. thread: "" for none."""
        reading = self.readings.setdefault(user_id, Reading())
        reading.receipts[thread] = max(reading.receipts.get(thread, -1), self.index_of[event_id])

    def shown_content(self, user_id: str, event_id: str) -> dict[str, Any]:
        """Return a message's content after redaction and erasure, for a user who may see the event."""
        index = self.index_of[event_id]
        event = self.naive.events[index]
        if self.judged[index].redacted:
            return {}
        gone = self.erased_at.get(event["sender"])
        if gone is not None:
            states = (self.naive.before[index], *self.naive.after[index:gone])
            if not any(self.naive.membership(state, user_id) == "join" for state in states):
                return {}
        content: dict[str, Any] = event["content"]
        return content

    def _thread(self, event: dict[str, Any]) -> str:
        relation = event["content"].get("m.relates_to") or {}
        if relation.get("rel_type") == "m.thread":
            return str(relation["event_id"])
        target = self.index_of.get(relation.get("event_id", ""))
        return MAIN if target is None else self.judged[target].thread

    def _level(self, state: dict[tuple[str, str], dict[str, Any]], user_id: str) -> int:
        create = state.get(("m.room.create", ""))
        if create is not None and create["content"].get("room_version") == "12" and create["sender"] == user_id:
            return 1 << 53
        levels = state.get(("m.room.power_levels", ""))
        if levels is None:
            return 100 if create is not None and create["sender"] == user_id else 0
        users = levels["content"].get("users", {})
        return int(users.get(user_id, levels["content"].get("users_default", 0)))


def _joined(event: dict[str, Any]) -> bool:
    return bool(event["content"].get("membership") == "join")


def _invites(event: dict[str, Any]) -> bool:
    return event["type"] == _MEMBER and bool(event["content"].get("membership") == "invite")
