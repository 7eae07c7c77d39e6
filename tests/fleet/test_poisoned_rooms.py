"""Rooms with hostile event contents: some events are refused, and the others do not break anyone's view.

The sender chooses the content of an event, and events of other servers are checked no better than these. The readers
of names, members, power levels and relations must tolerate anything.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet
from tests.fleet.answer_rules import faults_of
from tests.fleet.hostile_values import QUERY_VALUES, VALUES, keys_of, replaced
from tests.fleet.people import Person, register
from tests.room_checks import assert_fleet_rooms_agree

_CONTENTS: dict[str, dict[str, Any]] = {
    "m.room.name": {"name": "a room"},
    "m.room.topic": {"topic": "bees", "m.topic": {"m.text": [{"body": "bees", "mimetype": "text/plain"}]}},
    "m.room.avatar": {"url": "mxc://a/b", "info": {"w": 1}},
    "m.room.canonical_alias": {"alias": "#a:b", "alt_aliases": ["#c:d"]},
    "m.room.join_rules": {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!a:b"}]},
    "m.room.history_visibility": {"history_visibility": "shared"},
    "m.room.guest_access": {"guest_access": "can_join"},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": 1},
    "m.room.server_acl": {"allow": ["*"], "deny": ["evil.example"], "allow_ip_literals": True},
    "m.room.tombstone": {"body": "gone", "replacement_room": "!a:b"},
    "m.room.pinned_events": {"pinned": ["$a"]},
    "m.room.third_party_invite": {"display_name": "x", "public_keys": [{"public_key": "x", "key_validity_url": "x"}]},
    "m.space.child": {"via": ["a.b"], "order": "x"},
}
_MEMBER = {
    "membership": "join",
    "displayname": "Me",
    "avatar_url": "mxc://a/b",
    "reason": "r",
    "is_direct": True,
    "third_party_invite": {"display_name": "x", "signed": {"mxid": "@a:b", "token": "t", "signatures": {}}},
    "join_authorised_via_users_server": "@a:b",
}
_RELATED = {
    "body": "hum",
    "msgtype": "m.text",
    "m.relates_to": {"rel_type": "m.thread", "event_id": "$a", "key": "k", "m.in_reply_to": {"event_id": "$a"}},
    "m.mentions": {"user_ids": ["@a:b"], "room": True},
    "m.new_content": {"body": "x"},
    "redacts": "$a",
}


@pytest.fixture(scope="module")
def people(watched_fleet: RunningFleet) -> tuple[Person, Person]:
    register(watched_fleet, "victim-of-both")
    return register(watched_fleet, "poisoner"), register(watched_fleet, "drinker")


def _spoilt(content: dict[str, Any], step: int) -> Iterator[dict[str, Any]]:
    """Yield copies of the content with one value replaced, each `step`th of all combinations."""
    values = [value for value in VALUES if not isinstance(value, str) or len(value) < 1000]
    shown = 0
    for way in keys_of(content):
        for value in values:
            shown += 1
            if shown % step == 0:
                yield replaced(content, way, value)


def _look(person: Person, room: str, since: str, what: str) -> list[str]:
    """Read the room through every endpoint; return the faults of the answers."""
    place = quote(room, safe="")
    lazy = quote('{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":3}}}')
    paths = (
        "/sync?timeout=0",
        f"/sync?filter={lazy}",
        f"/sync?since={since}&timeout=0",
        f"/sync?since={since}&full_state=true",
        f"/rooms/{place}/messages?dir=b&limit=100&filter=%7B%22lazy_load_members%22%3Atrue%7D",
        f"/rooms/{place}/state",
        f"/rooms/{place}/members",
        f"/rooms/{place}/joined_members",
        "/joined_rooms",
        f"/rooms/{place}/aliases",
    )
    return [f"{what}, {path} -> {fault}" for path in paths for fault in faults_of(person.call("GET", path))]


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak, id="everything")])
def test_hostile_contents_do_not_break_reading(people: tuple[Person, Person], version: str, step: int) -> None:
    me, other = people
    room = me.create_room(room_version=version)
    place = quote(room, safe="")
    since = me.ask("GET", "/sync")["next_batch"]
    other.ask("POST", f"/rooms/{place}/join", {})
    faults: list[str] = []

    def put(path: str, content: Any) -> None:
        answer = me.call("PUT", f"/rooms/{place}/{path}", content)
        faults.extend(f"version {version}, {path} {str(content)[:200]} -> {fault}" for fault in faults_of(answer))

    for event_type, content in _CONTENTS.items():
        for number, spoilt in enumerate(_spoilt(content, step)):
            put(f"state/{event_type}/", spoilt)
            if number % 8 == 0:
                faults += _look(other, room, since, event_type)
        faults += _look(other, room, since, event_type)
        put(f"state/{event_type}/", content if event_type != "m.room.join_rules" else {"join_rule": "public"})
    for spoilt in _spoilt(_MEMBER, step):
        put(f"state/m.room.member/{quote(me.user_id)}", spoilt)
    faults += _look(other, room, since, "m.room.member")
    for number, spoilt in enumerate(_spoilt(_RELATED, step)):
        put(f"send/m.room.message/{number}", spoilt)
        put(f"send/m.room.redaction/{number}", spoilt)
        put(f"send/m.reaction/{number}", spoilt)
    faults += _look(other, room, since, "messages")
    for event_type in ("m.room.create", "m.room.aliases", "m.room.redaction", "m.room.member", "m.room.power_levels"):
        for key in ("", "x", "@x:y", me.user_id):
            put(f"state/{event_type}/{quote(key)}", {"membership": "join"})
            put(f"send/{event_type}/{quote(key) or 'e'}{version}", {"membership": "join"})
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:60])


@pytest.mark.parametrize("version", ["1", "9", "10", "12"])
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak, id="everything")])
def test_hostile_power_levels_do_not_break_the_room(people: tuple[Person, Person], version: str, step: int) -> None:
    """Room versions up to 9 allow levels as strings, so strange ones reach the room state and are read."""
    me, other = people
    nobody = me.user_id.replace("poisoner", "victim-of-both")
    levels: dict[str, Any] = {
        "ban": 50,
        "events": {"m.room.name": 50},
        "events_default": 0,
        "invite": 0,
        "kick": 50,
        "redact": 50,
        "state_default": 50,
        "users": {me.user_id: 100, other.user_id: 0},
        "users_default": 0,
        "notifications": {"room": 50},
    }
    if version == "12":
        del levels["users"][me.user_id]  # creators are above all levels there
    room = me.create_room(room_version=version)
    place = quote(room, safe="")
    since = me.ask("GET", "/sync")["next_batch"]
    other.ask("POST", f"/rooms/{place}/join", {})
    faults: list[str] = []
    strange = [" 50 ", "+7", "-0", "5_0", "٥", "1e2", "0x10", "", "9" * 30, "50.0", True]
    contents = [*_spoilt(levels, step), *({**levels, "ban": value, "users_default": value} for value in strange)]
    for number, content in enumerate(contents):
        answer = me.call("PUT", f"/rooms/{place}/state/m.room.power_levels/", content)
        faults += [f"version {version}, {str(content)[:300]} -> {fault}" for fault in faults_of(answer)]
        if answer.status == 200:  # every check of a level must tolerate the new levels
            for method, path, body in (
                ("PUT", f"send/m.room.message/p{number}", {"msgtype": "m.text", "body": "hum"}),
                ("POST", "ban", {"user_id": nobody}),
                ("POST", "unban", {"user_id": nobody}),
                ("POST", "invite", {"user_id": nobody}),
            ):
                for person in (me, other):
                    found = faults_of(person.call(method, f"/rooms/{place}/{path}", body))
                    faults += [f"version {version}, {path} with {str(content)[:300]} -> {fault}" for fault in found]
            if number % 10 == 0:
                faults += _look(other, room, since, "power levels")
            me.call("PUT", f"/rooms/{place}/state/m.room.power_levels/", levels)
            if me.call("PUT", f"/rooms/{place}/state/m.room.topic/", {"topic": f"{number}"}).status != 200:
                room = me.create_room(room_version=version)  # the user has locked themselves out
                place = quote(room, safe="")
                since = me.ask("GET", "/sync")["next_batch"]
                other.ask("POST", f"/rooms/{place}/join", {})
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:60])


def test_altered_tokens_never_cause_a_server_error(people: tuple[Person, Person]) -> None:
    """An altered pagination or sync token is refused or read as another position."""
    me, _ = people
    room = me.create_room()
    place = quote(room, safe="")
    for number in range(3):
        me.send(room, f"t{number}", {"msgtype": "m.text", "body": "hum"})
    synced = me.ask("GET", "/sync")
    page = me.ask("GET", f"/rooms/{place}/messages?dir=b&limit=2")
    tokens = [synced["next_batch"], synced["rooms"]["join"][room]["timeline"]["prev_batch"], page["start"], page["end"]]
    changed: set[str] = {*tokens, *QUERY_VALUES[:20]}
    for token in tokens:
        changed |= {token[:at] for at in range(1, len(token), 3)}
        changed |= {token[:at] + "~" + token[at + 1 :] for at in range(0, len(token), 2)}
        changed |= {token[:at] + "9" * 25 + token[at:] for at in range(0, len(token), 3)}
        changed |= {token + token, token + "%00", token[::-1], token.upper(), token.swapcase(), token + "_1.1" * 300}
        for found in re.finditer(r"\d+", token):
            for other in ("0", "-1", "9223372036854775807", "9223372036854775808", "2147483648", "00", "%D9%A5"):
                changed.add(token[: found.start()] + other + token[found.end() :])
    faults: list[str] = []
    for token in sorted(changed):
        for path in (
            f"/sync?timeout=0&since={token}",
            f"/rooms/{place}/messages?dir=b&from={token}",
            f"/rooms/{place}/messages?dir=f&from={token}",
            f"/rooms/{place}/messages?dir=b&to={token}",
            f"/rooms/{place}/members?at={token}",
        ):
            answer = me.call("GET", path)
            faults += [f"{path} -> {fault}" for fault in faults_of(answer)]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:60])


async def test_stored_rooms_agree_with_their_event_graphs(
    watched_fleet: RunningFleet, people: tuple[Person, Person]
) -> None:
    """Run after the tests above: the accepted events are stored correctly and are authorized."""
    await assert_fleet_rooms_agree(watched_fleet)


def test_logs_hold_no_traceback(watched_fleet: RunningFleet, people: tuple[Person, Person]) -> None:
    """Run last: the logs cover the tests above."""
    for file in (watched_fleet.directory / "logs").glob("*.log"):
        text = file.read_text(errors="replace")
        at = text.find('"exception"')
        assert at < 0, (file.name, text[max(0, at - 500) : at + 1500])
