"""Random actions on rooms (create, configure, upgrade) and memberships (join, leave, invite, moderate, deactivate)."""

import time
from typing import Any
from urllib.parse import quote

from shared.core.canonical_json import encode_canonical, encode_unpadded
from shared.core.signing import generate_signing_key
from tests.model.tale import Tale, path_of
from tests.model.world import Room

VISIBILITIES = ("shared", "joined", "invited", "world_readable")
_KEY = generate_signing_key(b"m" * 32, "0")
_MOST_ROOMS = 4


class Memberships(Tale):
    def room(self) -> None:
        if len(self.rooms) >= _MOST_ROOMS:
            return
        state = [
            ("m.room.history_visibility", {"history_visibility": self.dice.choice(VISIBILITIES)}),
            ("m.room.guest_access", {"guest_access": self.dice.choice(("can_join", "forbidden"))}),
        ]
        levels: dict[str, Any] = {"state_default": 0, "invite": 0, "kick": 0, "ban": 0, "redact": 50}
        body = {
            "preset": "public_chat",
            "room_version": self.dice.choice(("10", "11", "12")),
            "initial_state": [{"type": kind, "state_key": "", "content": content} for kind, content in state],
            "power_level_content_override": levels,
            "creation_content": {"m.federate": self.dice.random() < 0.7},
        }
        made = self.warden.do("POST", "/createRoom", body)
        assert made.status == 200, made.body
        self.absorb(made.json["room_id"])

    def join(self) -> None:
        """A user joins, mostly in an allowed way."""
        room = self.some_room()
        somebody = self.someone_outside(room)
        if somebody is None:
            return
        if room.membership(somebody.user_id) == "ban":
            self._act(room, "unban", somebody.user_id)
        rule = room.state()["m.room.join_rules", ""]["content"]["join_rule"]
        if rule != "public" and room.membership(somebody.user_id) != "invite" and self.dice.random() < 0.8:
            self._act(room, "invite", somebody.user_id)
        self.did(room, somebody.do("POST", f"{path_of(room)}/join", {}))

    def guest_joins(self) -> None:
        room = self.some_room()
        self.did(room, self.dice.choice(self.guests).do("POST", f"{path_of(room)}/join", {}))

    def leave(self) -> None:
        room = self.some_room()
        self.did(room, self.someone_in(room).do("POST", f"{path_of(room)}/leave", {}))

    def forget(self) -> None:
        """A user forgets a room that they have left."""
        room, somebody = self.some_room(), self.somebody()
        if room.member_index(somebody.user_id) is None or room.membership(somebody.user_id) not in ("leave", "ban"):
            return
        answer = somebody.do("POST", f"{path_of(room)}/forget", {})
        assert answer.status == 200, answer.body
        self.people[somebody.user_id].forget(room.room_id)

    def knock(self) -> None:
        room = self.some_room()
        somebody = self.someone_outside(room)
        if somebody is None:
            return
        if room.state()["m.room.join_rules", ""]["content"]["join_rule"] != "knock":
            self._set(room, "m.room.join_rules", {"join_rule": "knock"})
        self.did(room, somebody.do("POST", f"/knock/{quote(room.room_id, safe='')}", {}))

    def moderate(self) -> None:
        room, other = self.some_room(), self.somebody()
        action = "unban" if room.membership(other.user_id) == "ban" else self.dice.choice(("kick", "ban"))
        self.did(room, self.someone_in(room).do("POST", f"{path_of(room)}/{action}", {"user_id": other.user_id}))

    def invite(self) -> None:
        room = self.some_room()
        other = self.someone_outside(room)
        if other is not None:
            body = {"user_id": other.user_id}
            self.did(room, self.someone_in(room).do("POST", f"{path_of(room)}/invite", body))

    def third_party_invite(self) -> None:
        room, somebody = self.some_room(), self.somebody()
        token = f"tok{self.next()}"
        invite = {
            "display_name": "b...@example.org",
            "public_key": _KEY.verify_key_base64,
            "key_validity_url": "https://id.example.org/valid",
        }
        path = f"{path_of(room)}/state/m.room.third_party_invite/{token}"
        self.did(room, self.warden.do("PUT", path, invite))
        signed = {"mxid": somebody.user_id, "token": token}
        signature = encode_unpadded(_KEY.sign(encode_canonical(signed)))
        body = {**signed, "sender": self.warden.user_id, "signatures": {"id.example.org": {_KEY.key_id: signature}}}
        self.did(room, somebody.do("POST", f"{path_of(room)}/join", {"third_party_signed": body}))

    def setting(self) -> None:
        other = {"type": "m.room_membership", "room_id": self.some_room().room_id}
        kind, content = self.dice.choice(
            (
                ("m.room.history_visibility", {"history_visibility": self.dice.choice(VISIBILITIES)}),
                ("m.room.history_visibility", {"history_visibility": self.dice.choice(VISIBILITIES)}),
                ("m.room.guest_access", {"guest_access": self.dice.choice(("can_join", "can_join", "forbidden"))}),
                ("m.room.join_rules", {"join_rule": self.dice.choice(("public", "public", "invite", "knock"))}),
                ("m.room.join_rules", {"join_rule": "restricted", "allow": [other]}),
                ("m.room.topic", {"topic": self.next()}),
                ("m.room.name", {"name": self.next()}),
            )
        )
        self._set(self.some_room(), kind, content)

    def name(self) -> None:
        room = self.some_room()
        somebody = self.someone_in(room)
        content = {"membership": "join", "displayname": f"{self.next()}"}
        if room.membership(somebody.user_id) == "join":
            path = f"{path_of(room)}/state/m.room.member/{quote(somebody.user_id, safe='')}"
            self.did(room, somebody.do("PUT", path, content))

    def upgrade(self) -> None:
        """A member tags and mutes a room, the room is upgraded, and that member and others join the new room."""
        room = self.some_room()
        if len(self.rooms) > _MOST_ROOMS or ("m.room.tombstone", "") in room.state():
            return
        members = [human for human in self.humans if room.membership(human.user_id) == "join"]
        for human in members[:1]:
            self.tag_room(room, human)
            if room.room_id not in self.people[human.user_id].rules.overrides:
                self.mute(room, human)
        answer = self.warden.do("POST", f"{path_of(room)}/upgrade", {"new_version": self.dice.choice(("11", "12"))})
        assert answer.status == 200, answer.body
        self.absorb(room.room_id)
        self.absorb(answer.json["replacement_room"])
        successor = self.rooms[answer.json["replacement_room"]]
        for number, human in enumerate(members):
            if number == 0 or self.dice.random() < 0.5:
                self.did(successor, human.do("POST", f"{path_of(successor)}/join", {}))

    def erase(self) -> None:
        if len(self.humans) < 4:
            return
        somebody = self.humans.pop()
        asked = somebody.do("POST", "/account/deactivate", {"erase": True})
        assert asked.status == 401, asked.body
        proof = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": somebody.user_id},
            "password": somebody.password,
            "session": asked.json["session"],
        }
        answer = somebody.do("POST", "/account/deactivate", {"erase": True, "auth": proof})
        assert answer.status == 200, answer.body
        self.gone.add(somebody.user_id)
        end = time.monotonic() + 60
        for room in self.rooms.values():  # a background job makes the user leave
            room.erased_at[somebody.user_id] = len(room.judged)
            while room.membership(somebody.user_id) in ("join", "invite", "knock"):
                assert time.monotonic() < end, "the user did not leave"
                time.sleep(0.1)
                self.absorb(room.room_id)

    def _set(self, room: Room, kind: str, content: dict[str, Any]) -> None:
        self.did(room, self.warden.do("PUT", f"{path_of(room)}/state/{kind}/", content))

    def _act(self, room: Room, action: str, user_id: str) -> None:
        self.did(room, self.warden.do("POST", f"{path_of(room)}/{action}", {"user_id": user_id}))
