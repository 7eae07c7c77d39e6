"""The actions of users on a fleet, applied to the model as well.

An action that the server accepts is added to the model. A refused action must have changed nothing.
"""

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.model.people import Answer, Human, Village
from tests.model.world import Member, Room
from tests.rigs.waiting import wait_until

_MEMBER = "m.room.member"


class Tale:
    """The state of one run.

    warden: a user with full power who is joined to every room from its first event
    accepted, refused: numbers of attempts
    """

    def __init__(self, village: Village, names: tuple[str, ...], dice: random.Random) -> None:
        self.village = village
        self.dice = dice
        self.warden = village.human(f"warden-{names[0]}", devices=1)
        self.humans = [village.human(name) for name in names]
        self.guests = [village.guest()]
        self.rooms: dict[str, Room] = {}
        self.people: dict[str, Member] = {
            human.user_id: Member() for human in (self.warden, *self.humans, *self.guests)
        }
        self.gone: set[str] = set()
        self.accepted = self.refused = 0
        self._guest_ids = {guest.user_id for guest in self.guests}
        self._number = 0
        self._heard = village.rows_read("push_rules")

    def absorb(self, room_id: str) -> None:
        """Read a room's new events, as the warden sees them."""
        room = self.rooms.setdefault(room_id, Room(room_id))
        new: list[dict[str, Any]] = []
        query: dict[str, Any] = {"dir": "b", "limit": 20}
        while query:
            page = self.warden.get(f"{path_of(room)}/messages", query)
            fresh = [event for event in page["chunk"] if event["event_id"] not in room.index_of]
            new += fresh
            more = "end" in page and len(fresh) == len(page["chunk"])
            query = {**query, "from": page["end"]} if more else {}
        for event in reversed(new):
            came = event["type"] == _MEMBER and event["content"]["membership"] == "join"
            came = came and room.membership(event["state_key"]) != "join"
            room.take(event, self.people)
            if came and room.predecessor is not None:
                self._settings_follow(event["state_key"], room.predecessor, room)

    def did(self, room: Room, answer: Answer) -> bool:
        """Add the result of an attempt to the model; return True if it was accepted."""
        known = len(room.judged)
        assert answer.status in (200, 400, 403, 404), (answer.status, answer.body)
        self.absorb(room.room_id)
        # Guests are removed some moments after their access ends.
        new = [each.event for each in room.judged[known:] if each.event.get("state_key") not in self._guest_ids]
        assert answer.status == 200 or not new, ("a refused action took effect", answer.body, new)
        self.accepted += answer.status == 200
        self.refused += answer.status != 200
        return answer.status == 200

    def send(self, room: Room, somebody: Human, kind: str, content: dict[str, Any]) -> None:
        known = len(room.judged)
        answer = somebody.do("PUT", f"{path_of(room)}/send/{kind}/{self.next()}", content)
        if self.did(room, answer):
            event = room.event(answer.json["event_id"])
            assert room.index_of[event["event_id"]] >= known
            assert (event["sender"], event["type"], event["content"]) == (somebody.user_id, kind, content)

    def decides(self, change: Callable[[], Answer]) -> None:
        """Make a change that affects later events, and wait until the persisters have read it."""
        answer = change()
        assert answer.status == 200, answer.body
        self._hear()

    def tag_room(self, room: Room, human: Human) -> None:
        name = f"u.{self.next()}"
        path = f"/user/{quote(human.user_id, safe='')}{path_of(room)}/tags/{name}"
        answer = human.do("PUT", path, {"order": 0.5})
        assert answer.status == 200, answer.body
        tags = self.people[human.user_id].tags
        tags[room.room_id] = {**tags.get(room.room_id, {}), name: {"order": 0.5}}

    def mute(self, room: Room, human: Human) -> None:
        self.people[human.user_id].rules.overrides.insert(0, room.room_id)
        muted = {"kind": "event_match", "key": "room_id", "pattern": room.room_id}
        path = "/pushrules/global/" + quote(f"override/mute {room.room_id}", safe="/")
        self.decides(lambda: human.do("PUT", path, {"conditions": [muted], "actions": []}))

    def _hear(self) -> None:
        """Wait until each persister has read one more row of push rules."""
        wanted = [rows + 1 for rows in self._heard]
        wait_until(lambda: self.village.rows_read("push_rules") >= wanted, "the persisters did not read the push rules")
        self._heard = self.village.rows_read("push_rules")
        assert self._heard == wanted, "an unexpected change of push rules"

    def _settings_follow(self, user_id: str, old_room_id: str, room: Room) -> None:
        """Wait until a job has copied the user's settings from the room that was upgraded to this one."""
        member = self.people.get(user_id)
        if member is None or user_id in self._guest_ids:
            return
        wait_until(lambda: not self.village.settings_to_copy(user_id, room.room_id), "settings were not copied")
        if old_room_id in member.tags:
            member.tags.setdefault(room.room_id, member.tags[old_room_id])
        if member.rules.follow(old_room_id, room.room_id):
            self._hear()

    # -- random choices

    def some_room(self) -> Room:
        """Return a room, mostly one that was not upgraded, because upgraded rooms refuse most actions."""
        rooms = list(self.rooms.values())
        open_rooms = [room for room in rooms if ("m.room.tombstone", "") not in room.state()]
        return self.dice.choice(open_rooms if open_rooms and self.dice.random() < 0.85 else rooms)

    def somebody(self) -> Human:
        return self.dice.choice(self.humans)

    def someone_in(self, room: Room) -> Human:
        """Return a user, mostly a member of the room."""
        members = [human for human in self.humans if room.membership(human.user_id) == "join"]
        return self.dice.choice(members) if members and self.dice.random() < 0.95 else self.somebody()

    def someone_outside(self, room: Room) -> Human | None:
        found = [human for human in self.humans if room.membership(human.user_id) != "join"]
        return self.dice.choice(found) if found else None

    def some_message(
        self, room: Room, *, sender: str = "", main_only: bool = False, or_edit: bool = False
    ) -> str | None:
        found = [
            judged.event["event_id"]
            for judged in room.judged[-15:]
            if judged.event["type"] == "m.room.message"
            and not judged.redacted
            and sender in ("", judged.event["sender"])
            and not (main_only and "m.relates_to" in judged.event["content"])
            and (or_edit or "m.new_content" not in judged.event["content"])
        ]
        return self.dice.choice(found) if found else None

    def next(self) -> str:
        self._number += 1
        return str(self._number)


def path_of(room: Room) -> str:
    return f"/rooms/{quote(room.room_id, safe='')}"
