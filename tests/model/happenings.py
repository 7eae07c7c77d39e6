"""Random actions of users."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.model.memberships import Memberships
from tests.model.rules import BY_NAME
from tests.model.tale import path_of
from tests.model.world import Room
from tests.rigs.waiting import wait_until

LOUD = ["notify", {"set_tweak": "highlight"}]
WORDS = ("honey", "wax", "swarm", "queen", "smoke")
#: Action -> relative frequency.
WEIGHTS = {
    "message": 14,
    "thread_message": 6,
    "reaction": 2,
    "edit": 2,
    "redaction": 2,
    "join": 7,
    "leave": 2,
    "forget": 1,
    "moderate": 1.5,
    "invite": 2,
    "knock": 1,
    "third_party_invite": 0.7,
    "setting": 2,
    "name": 1,
    "receipt": 7,
    "rule": 2.5,
    "ignore": 0.8,
    "tag": 1.5,
    "peek": 1.5,
    "room": 0.7,
    "guest_joins": 0.8,
    "upgrade": 0.6,
    "erase": 0.1,
}


class Happenings(Memberships):
    def any(self, left_out: frozenset[str] = frozenset()) -> None:
        """Do one random action."""
        while len(self.rooms) < 2:
            self.room()
        names = [name for name in WEIGHTS if name not in left_out]
        name = self.dice.choices(names, [WEIGHTS[name] for name in names])[0]
        act: Callable[[], None] = getattr(self, name)
        act()

    def last_messages(self) -> None:
        """Send an event into every room, so that every client has an event to wait for."""
        for room in self.rooms.values():
            self.send(room, self.warden, "org.example.last", {})

    # -- messages

    def message(self) -> None:
        content: dict[str, Any] = {"msgtype": self.dice.choice(("m.text", "m.text", "m.text", "m.notice"))}
        content["body"] = f"{self.next()} {self.dice.choice(WORDS)} {self.dice.choice(('', 'and so on', 'Honeybee'))}"
        self._mention(content)
        kind = "m.room.encrypted" if self.dice.random() < 0.1 else "m.room.message"
        room = self.some_room()
        if self.dice.random() < 0.15:
            content["body"] += " " + room.name(self.dice.choice(room.joined()))
        self.send(room, self.someone_in(room), kind, content)

    def thread_message(self) -> None:
        room = self.some_room()
        root = self.some_message(room, main_only=True)
        if root is not None:
            content = {
                "msgtype": "m.text",
                "body": f"{self.next()} in a thread",
                "m.relates_to": {"rel_type": "m.thread", "event_id": root},
            }
            self._mention(content)
            self.send(room, self.someone_in(room), "m.room.message", content)

    def reaction(self) -> None:
        room = self.some_room()
        target = self.some_message(room, or_edit=True)
        if target is not None:
            relation = {"rel_type": "m.annotation", "event_id": target, "key": self.next()}
            self.send(room, self.someone_in(room), "m.reaction", {"m.relates_to": relation})

    def edit(self) -> None:
        room = self.some_room()
        somebody = self.someone_in(room)
        target = self.some_message(room, sender=somebody.user_id)
        if target is not None:
            body = {"msgtype": "m.text", "body": f"{self.next()} edited"}
            content = {**body, "m.new_content": body, "m.relates_to": {"rel_type": "m.replace", "event_id": target}}
            self.send(room, somebody, "m.room.message", content)

    def redaction(self) -> None:
        room = self.some_room()
        target = self.some_message(room)
        if target is not None:
            path = f"{path_of(room)}/redact/{quote(target)}/{self.next()}"
            self.did(room, self.dice.choice((self.warden, self.someone_in(room))).do("PUT", path, {}))

    # -- personal actions

    def receipt(self) -> None:
        room = self.some_room()
        somebody = self.someone_in(room)
        if room.membership(somebody.user_id) != "join":
            return
        since = room.readings[somebody.user_id].joined_at
        judged = self.dice.choice(room.judged[max(since, len(room.judged) - 8) :])
        event_id = judged.event["event_id"]
        thread = self.dice.choice(("", "", judged.thread))
        kind = self.dice.choice(("m.read", "m.read.private", "m.fully_read"))
        body = {"thread_id": thread} if thread and kind != "m.fully_read" else {}
        answer = somebody.do("POST", f"{path_of(room)}/receipt/{kind}/{quote(event_id)}", body)
        assert answer.status == 200, (answer.body, thread, judged.event)
        if kind != "m.fully_read":  # m.fully_read does not change counts
            room.read(somebody.user_id, event_id, thread)

    def rule(self) -> None:
        somebody, room = self.somebody(), self.some_room()
        room_id = room.room_id
        rules = self.people[somebody.user_id].rules
        which = self.dice.choice(("master", "override", "name", "content", "room", "sender", "message"))
        off, notifies = self.dice.random() < 0.4, self.dice.random() < 0.5
        body: dict[str, Any]
        if which in ("master", "message"):
            on = self.dice.random() < 0.3 if which == "master" else not off
            if on == (rules.all_off if which == "master" else not rules.messages_off):
                return
            kind = "override" if which == "master" else "underride"
            path, body, off = f"{kind}/.m.rule.{which}/enabled", {"enabled": on}, False
            if which == "master":
                rules.all_off = on
            else:
                rules.messages_off = not on
        elif which == "content":
            key = self.dice.choice(WORDS)
            if (key in rules.keywords) != off:
                return
            rules.keywords ^= {key}
            path, body = f"content/{key}", {"pattern": key, "actions": LOUD}
        elif which in ("override", "name"):
            key = room_id if which == "override" else BY_NAME
            if (key in rules.overrides) != off:
                return
            if which == "override" and not off:
                self.mute(room, somebody)
                return
            if off:
                rules.overrides.remove(key)
            else:
                rules.overrides.insert(0, key)
            path = f"override/{BY_NAME}" if which == "name" else f"override/mute {room_id}"
            body = {"conditions": [{"kind": "contains_display_name"}], "actions": LOUD}
        else:
            key, of_kind = (room_id, rules.room) if which == "room" else (self.somebody().user_id, rules.sender)
            if of_kind.get(key) == (None if off else notifies):
                return
            path, body = f"{which}/{key}", {"actions": ["notify"] if notifies else []}
            if off:
                del of_kind[key]
            else:
                of_kind[key] = notifies
        target = "/pushrules/global/" + quote(path, safe="/")
        self.decides(lambda: somebody.do("DELETE" if off else "PUT", target, None if off else body))

    def ignore(self) -> None:
        """A user starts or stops ignoring another user."""
        somebody, other = self.somebody(), self.somebody()
        if somebody is other:
            return
        member = self.people[somebody.user_id]
        member.ignores ^= {other.user_id}
        member.ever_ignored.add(other.user_id)
        path = f"/user/{quote(somebody.user_id, safe='')}/account_data/m.ignored_user_list"
        body: dict[str, Any] = {"ignored_users": {user_id: {} for user_id in sorted(member.ignores)}}
        self.decides(lambda: somebody.do("PUT", path, body))

    def tag(self) -> None:
        room = self.some_room()
        self.tag_room(room, self.someone_in(room))

    def peek(self) -> None:
        """A user reads a room in which they were never a member."""
        room, somebody = self.some_room(), self.somebody()
        if room.member_index(somebody.user_id) is not None:
            return
        setting = room.state()["m.room.history_visibility", ""]["content"]["history_visibility"]
        expected = self._seen_by_stranger(room, somebody.user_id) if setting == "world_readable" else None

        def sees_it() -> bool:
            page = somebody.devices[0].get(f"{path_of(room)}/messages", {"dir": "b", "limit": 1000})
            if page.status != 200:
                assert page.status == 403, page.body
                return expected is None
            return [event["event_id"] for event in reversed(page.json["chunk"])] == expected

        wait_until(sees_it, f"{somebody.user_id} does not see the visible events of {room.room_id}")

    def _seen_by_stranger(self, room: Room, user_id: str) -> list[str]:
        ignored = self.people[user_id].ignores
        events = [room.event(event_id) for event_id in room.visible(user_id)]
        return [each["event_id"] for each in events if "state_key" in each or each["sender"] not in ignored]

    def _mention(self, content: dict[str, Any]) -> None:
        drawn = self.dice.random()
        if drawn < 0.2:
            content["m.mentions"] = {"user_ids": [self.somebody().user_id]}
        elif drawn < 0.27:
            content["m.mentions"] = {"room": True}
