"""Random things that people do. What the server accepts goes into the model; what it refuses must change nothing."""

import random
import time
from typing import Any
from urllib.parse import quote

from shared.core.canonical_json import encode_canonical, encode_unpadded
from shared.core.signing import generate_signing_key
from tests.model.people import Answer, Human, Village
from tests.model.world import Member, Room

WORDS = ("honey", "wax", "swarm", "queen", "smoke")
VISIBILITIES = ("shared", "joined", "invited", "world_readable")
_KEY = generate_signing_key(b"m" * 32, "0")


class Happenings:
    """warden: joined to every room from its first event on, with every right."""

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
        self._guest_ids = {guest.user_id for guest in self.guests}
        self._number = 0

    # -- what can happen

    def any(self) -> None:
        """Do one random thing."""
        things = (
            (self.message, 14), (self.thread_message, 6), (self.reaction, 2), (self.edit, 2), (self.redaction, 2),
            (self.join, 6), (self.leave, 1.5), (self.moderate, 2.5), (self.knock, 1), (self.third_party_invite, 0.7),
            (self.setting, 1.5), (self.name, 1), (self.receipt, 7), (self.rule, 2), (self.ignore, 0.7),
            (self.room, 0.7), (self.guest_joins, 0.8), (self.upgrade, 0.2), (self.erase, 0.1),
        )  # fmt: skip
        if len(self.rooms) < 2:
            self.room()
        else:
            self.dice.choices([thing for thing, _ in things], [weight for _, weight in things])[0]()

    def room(self) -> None:
        if len(self.rooms) >= 4:
            return
        state = [
            ("m.room.history_visibility", {"history_visibility": self.dice.choice(VISIBILITIES)}),
            ("m.room.guest_access", {"guest_access": self.dice.choice(("can_join", "forbidden"))}),
        ]
        levels: dict[str, Any] = {"state_default": 0, "invite": 0, "kick": 0, "ban": 0, "redact": 50}
        body = {
            "preset": "public_chat", "room_version": self.dice.choice(("10", "11", "12")),
            "initial_state": [{"type": kind, "state_key": "", "content": content} for kind, content in state],
            "power_level_content_override": levels,
        }  # fmt: skip
        made = self.warden.do("POST", "/createRoom", body)
        assert made.status == 200, made.body
        self._absorb(made.json["room_id"])

    def message(self) -> None:
        content: dict[str, Any] = {"msgtype": self.dice.choice(("m.text", "m.text", "m.text", "m.notice"))}
        content["body"] = f"{self._next()} {self.dice.choice(WORDS)} {self.dice.choice(('', 'and so on', 'Honeybee'))}"
        self._mention(content)
        kind = "m.room.encrypted" if self.dice.random() < 0.1 else "m.room.message"
        self._send(self._some_room(), self._somebody(), kind, content)

    def thread_message(self) -> None:
        room = self._some_room()
        root = self._some_message(room, main_only=True)
        if root is not None:
            content = {
                "msgtype": "m.text", "body": f"{self._next()} in a thread",
                "m.relates_to": {"rel_type": "m.thread", "event_id": root},
            }  # fmt: skip
            self._mention(content)
            self._send(room, self._somebody(), "m.room.message", content)

    def reaction(self) -> None:
        room = self._some_room()
        target = self._some_message(room)
        if target is not None:
            relation = {"rel_type": "m.annotation", "event_id": target, "key": self._next()}
            self._send(room, self._somebody(), "m.reaction", {"m.relates_to": relation})

    def edit(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        target = self._some_message(room, sender=somebody.user_id)
        if target is not None:
            body = {"msgtype": "m.text", "body": f"{self._next()} edited"}
            content = {**body, "m.new_content": body, "m.relates_to": {"rel_type": "m.replace", "event_id": target}}
            self._send(room, somebody, "m.room.message", content)

    def redaction(self) -> None:
        room = self._some_room()
        target = self._some_message(room)
        if target is not None:
            path = f"{_room(room)}/redact/{quote(target)}/{self._next()}"
            self._did(room, self.dice.choice((self.warden, self._somebody())).do("PUT", path, {}))

    def join(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        if room.membership(somebody.user_id) != "join":
            self._did(room, somebody.do("POST", f"{_room(room)}/join", {}))

    def guest_joins(self) -> None:
        room = self._some_room()
        self._did(room, self.dice.choice(self.guests).do("POST", f"{_room(room)}/join", {}))

    def leave(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        self._did(room, somebody.do("POST", f"{_room(room)}/leave", {}))

    def knock(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        self._did(room, somebody.do("POST", f"/knock/{quote(room.room_id, safe='')}", {}))

    def moderate(self) -> None:
        room, somebody, other = self._some_room(), self._somebody(), self._somebody()
        action = self.dice.choice(("invite", "invite", "invite", "kick", "ban", "unban"))
        self._did(room, somebody.do("POST", f"{_room(room)}/{action}", {"user_id": other.user_id}))

    def third_party_invite(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        token = f"tok{self._next()}"
        invite = {
            "display_name": "b...@example.org", "public_key": _KEY.verify_key_base64,
            "key_validity_url": "https://id.example.org/valid",
        }  # fmt: skip
        path = f"{_room(room)}/state/m.room.third_party_invite/{token}"
        self._did(room, self.warden.do("PUT", path, invite))
        signed = {"mxid": somebody.user_id, "token": token}
        signature = encode_unpadded(_KEY.sign(encode_canonical(signed)))
        body = {**signed, "sender": self.warden.user_id, "signatures": {"id.example.org": {_KEY.key_id: signature}}}
        self._did(room, somebody.do("POST", f"{_room(room)}/join", {"third_party_signed": body}))

    def setting(self) -> None:
        kind, content = self.dice.choice(
            (
                ("m.room.history_visibility", {"history_visibility": self.dice.choice(VISIBILITIES)}),
                ("m.room.guest_access", {"guest_access": self.dice.choice(("can_join", "can_join", "forbidden"))}),
                ("m.room.join_rules", {"join_rule": self.dice.choice(("public", "public", "invite", "knock"))}),
                ("m.room.topic", {"topic": self._next()}),
            )
        )
        room = self._some_room()
        self._did(room, self.warden.do("PUT", f"{_room(room)}/state/{kind}/", content))

    def name(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        content = {"membership": "join", "displayname": f"{self._next()}"}
        if room.membership(somebody.user_id) == "join":
            path = f"{_room(room)}/state/m.room.member/{quote(somebody.user_id, safe='')}"
            self._did(room, somebody.do("PUT", path, content))

    def receipt(self) -> None:
        room, somebody = self._some_room(), self._somebody()
        if room.membership(somebody.user_id) != "join":
            return
        since = room.readings[somebody.user_id].joined_at
        judged = self.dice.choice(room.judged[max(since, len(room.judged) - 8) :])
        event_id = judged.event["event_id"]
        thread = self.dice.choice(("", "", judged.thread))
        body = {"thread_id": thread} if thread else {}
        kind = self.dice.choice(("m.read", "m.read.private"))
        answer = somebody.do("POST", f"{_room(room)}/receipt/{kind}/{quote(event_id)}", body)
        assert answer.status == 200, (answer.body, thread, judged.event)
        room.read(somebody.user_id, event_id, thread)

    def rule(self) -> None:
        somebody = self._somebody()
        rules = self.people[somebody.user_id].rules
        room_id = self._some_room().room_id
        word, other = self.dice.choice(WORDS), self._somebody().user_id
        which = self.dice.choice(("master", "override", "content", "room", "sender", "message"))
        off = self.dice.random() < 0.4
        loud = self.dice.random() < 0.5
        actions = ["notify"] if loud else []
        if which in ("master", "message"):
            on = self.dice.random() < 0.3 if which == "master" else not off
            kind = "override" if which == "master" else "underride"
            path, body = f"{kind}/.m.rule.{which}/enabled", {"enabled": on}
            if which == "master":
                rules.all_off = on
            else:
                rules.messages_off = not on
        elif which == "override":
            condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
            path, body = f"override/mute {room_id}", {"conditions": [condition], "actions": []}
            if off:
                rules.muted_by_override.discard(room_id)
            else:
                rules.muted_by_override.add(room_id)
        elif which == "content":
            path = f"content/{word}"
            body = {"pattern": word, "actions": ["notify", {"set_tweak": "highlight"}]}
            if off:
                rules.keywords.discard(word)
            else:
                rules.keywords.add(word)
        else:
            key, kept = (room_id, rules.room) if which == "room" else (other, rules.sender)
            path, body = f"{which}/{key}", {"actions": actions}
            if off:
                kept.pop(key, None)
            else:
                kept[key] = loud
        method = "DELETE" if off and which not in ("master", "message") else "PUT"
        target = "/pushrules/global/" + quote(path, safe="/")
        self._decides(lambda: somebody.do(method, target, body if method == "PUT" else None), may_lack=True)

    def ignore(self) -> None:
        somebody, other = self._somebody(), self._somebody()
        if somebody is other:
            return
        member = self.people[somebody.user_id]
        member.ignores ^= {other.user_id}
        member.ever_ignored.add(other.user_id)
        path = f"/user/{quote(somebody.user_id, safe='')}/account_data/m.ignored_user_list"
        body = {"ignored_users": {user_id: {} for user_id in sorted(member.ignores)}}
        self._decides(lambda: somebody.do("PUT", path, body))

    def upgrade(self) -> None:
        room = self._some_room()
        if len(self.rooms) < 5 and ("m.room.tombstone", "") not in room.state():
            answer = self.warden.do("POST", f"{_room(room)}/upgrade", {"new_version": self.dice.choice(("11", "12"))})
            assert answer.status == 200, answer.body
            self._absorb(room.room_id)
            self._absorb(answer.json["replacement_room"])

    def erase(self) -> None:
        if len(self.humans) < 4:
            return
        somebody = self.humans.pop()
        body = {
            "erase": True,
            "auth": {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": somebody.user_id},
                "password": somebody.password,
            },
        }
        asked = somebody.do("POST", "/account/deactivate", {"erase": True})
        assert asked.status == 401, asked.body
        body["auth"]["session"] = asked.json["session"]  # type: ignore[index]
        answer = somebody.do("POST", "/account/deactivate", body)
        assert answer.status == 200, answer.body
        self.gone.add(somebody.user_id)
        end = time.monotonic() + 15
        for room in self.rooms.values():  # a job makes him leave
            room.erased_at[somebody.user_id] = len(room.judged)
            while room.membership(somebody.user_id) in ("join", "invite", "knock"):
                assert time.monotonic() < end, "he did not leave"
                time.sleep(0.1)
                self._absorb(room.room_id)

    # -- the model's side

    def last_messages(self) -> None:
        """Say something in every room, so that everybody has something to wait for."""
        for room in self.rooms.values():
            self._send(room, self.warden, "org.example.last", {})

    def _absorb(self, room_id: str) -> None:
        """Read what is new in a room, as the warden sees it."""
        room = self.rooms.setdefault(room_id, Room(room_id))
        new: list[dict[str, Any]] = []
        query: dict[str, Any] = {"dir": "b", "limit": 20}
        while True:
            page = self.warden.devices[0].get(f"{_room(room)}/messages", query)
            assert page.status == 200, page.body
            for event in page.json["chunk"]:
                if event["event_id"] in room.index_of:
                    break
                new.append(event)
            else:
                if "end" in page.json:
                    query["from"] = page.json["end"]
                    continue
            break
        for event in reversed(new):
            room.take(event, self.people)

    def _did(self, room: Room, answer: Answer) -> None:
        known = len(room.judged)
        assert answer.status in (200, 400, 403, 404), (answer.status, answer.body)
        self._absorb(room.room_id)
        # Guests are thrown out some moments after their access ended.
        new = [each.event for each in room.judged[known:] if each.event.get("state_key") not in self._guest_ids]
        assert answer.status == 200 or not new, ("what was refused happened", answer.body, new)

    def _send(self, room: Room, somebody: Human, kind: str, content: dict[str, Any]) -> None:
        known = len(room.judged)
        answer = somebody.do("PUT", f"{_room(room)}/send/{kind}/{self._next()}", content)
        self._did(room, answer)
        if answer.status == 200:
            event = room.judged[room.index_of[answer.json["event_id"]]].event
            assert room.index_of[answer.json["event_id"]] >= known
            assert (event["sender"], event["type"], event["content"]) == (somebody.user_id, kind, content)

    def _decides(self, change: Any, *, may_lack: bool = False) -> None:
        """Make a change that decides about later events, and wait until whoever judges them has heard of it."""
        before = self.village.rows_read("push_rules")
        answer = change()
        if may_lack and answer.status == 404:
            return
        assert answer.status == 200, answer.body
        end = time.monotonic() + 1.0  # a change that changed nothing writes no row
        while not all(now > then for now, then in zip(self.village.rows_read("push_rules"), before, strict=True)):
            if time.monotonic() > end:
                return
            time.sleep(0.01)

    def _mention(self, content: dict[str, Any]) -> None:
        drawn = self.dice.random()
        if drawn < 0.2:
            content["m.mentions"] = {"user_ids": [self._somebody().user_id]}
        elif drawn < 0.27:
            content["m.mentions"] = {"room": True}

    def _some_room(self) -> Room:
        return self.dice.choice(list(self.rooms.values()))

    def _somebody(self) -> Human:
        return self.dice.choice(self.humans)

    def _some_message(self, room: Room, *, sender: str = "", main_only: bool = False) -> str | None:
        found = [
            judged.event["event_id"]
            for judged in room.judged[-15:]
            if judged.event["type"] == "m.room.message"
            and not judged.redacted
            and sender in ("", judged.event["sender"])
            and not (main_only and "m.relates_to" in judged.event["content"])
            and "m.new_content" not in judged.event["content"]
        ]
        return self.dice.choice(found) if found else None

    def _next(self) -> str:
        self._number += 1
        return str(self._number)


def _room(room: Room) -> str:
    return f"/rooms/{quote(room.room_id, safe='')}"
