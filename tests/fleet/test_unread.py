"""Unread counts, receipts and the list of notifications on a fleet, for members with different push rules."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet, run_fleet
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import call
from tests.spec_answers import check_answer

_THREADS = quote('{"room":{"timeline":{"unread_thread_notifications":true}}}')


@pytest.fixture(scope="module")
def hive() -> Iterator[RunningFleet]:
    none = dict.fromkeys(("federation_reader", "federation_sender", "media", "background"), 0)
    yield from run_fleet(
        {
            "fleet": {"client_api": 2, "synchrotron": 2, "event_persister": 1, **none},
            "rate_limits": {"read": None, "account": None, "message": None},
        }
    )


def _room_path(room_id: str, path: str) -> str:
    return f"/rooms/{quote(room_id, safe='')}/{path}"


def _room(owner: Person, *others: Person) -> str:
    room_id = owner.create_room()
    for other in others:
        other.ask("POST", _room_path(room_id, "join"), {})
    return room_id


class _Talk:
    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.number = 0

    def say(self, person: Person, text: str = "hello", **content: Any) -> str:
        self.number += 1
        path = _room_path(self.room_id, f"send/m.room.message/t{self.number}")
        event_id: str = person.ask("PUT", path, {"msgtype": "m.text", "body": text, **content})["event_id"]
        return event_id

    def read(self, person: Person, event_id: str, kind: str = "m.read", thread_id: str | None = None) -> None:
        body = {} if thread_id is None else {"thread_id": thread_id}
        person.ask("POST", _room_path(self.room_id, f"receipt/{kind}/{quote(event_id, safe='')}"), body)


def _mention(person: Person) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": [person.user_id]}}


def _in_thread(root: str) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


class _Device:
    """A device that syncs incrementally and keeps the latest counts of each room."""

    def __init__(self, person: Person, *, threads: bool = False) -> None:
        self.person = person
        self._query = f"?filter={_THREADS}" if threads else "?"
        self._since = ""
        self.counts: dict[str, tuple[int, int]] = {}
        self.threads: dict[str, dict[str, int]] = {}
        self.events: set[str] = set()
        self.sync()

    def sync(self, timeout_ms: int = 0) -> None:
        answer = self.person.ask("GET", f"/sync{self._query}&timeout={timeout_ms}{self._since}")
        self._since = f"&since={answer['next_batch']}"
        for room_id, section in answer["rooms"]["join"].items():
            told = section["unread_notifications"]
            self.counts[room_id] = (told["notification_count"], told["highlight_count"])
            found = section.get("unread_thread_notifications", {})
            self.threads[room_id] = {root: count["notification_count"] for root, count in found.items()}
            self.events.update(event["event_id"] for event in section["timeline"]["events"])

    def sync_to(self, event_id: str) -> None:
        for _ in range(20):
            if event_id in self.events:
                return
            self.sync(5_000)
        raise AssertionError("the event did not arrive")

    def sync_until(self, room_id: str, counts: tuple[int, int]) -> None:
        for _ in range(20):
            if self.counts[room_id] == counts:
                return
            self.sync(5_000)
        raise AssertionError(f"{self.counts[room_id]} instead of {counts}")


def test_counts_follow_each_members_push_rules(hive: RunningFleet) -> None:
    names = ("alice", "bob", "muted", "mentioned", "keyword", "ignorer")
    people = [register(hive, name) for name in names]
    alice, bob, muted, mentioned, keyword, ignorer = people
    room_id = _room(alice, bob, muted, mentioned, keyword, ignorer)
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    quoted = quote(room_id, safe="")
    muted.ask("PUT", f"/pushrules/global/override/{quoted}", {"actions": [], "conditions": [condition]})
    mentioned.ask("PUT", f"/pushrules/global/room/{quoted}", {"actions": []})
    words = {"actions": ["notify", {"set_tweak": "highlight"}], "pattern": "honey"}
    keyword.ask("PUT", "/pushrules/global/content/honey", words)
    ignorer.ask(
        "PUT", f"/user/{quote(ignorer.user_id)}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}}
    )
    devices = [_Device(person) for person in people]
    talk = _Talk(room_id)
    talk.say(alice, "one")
    talk.say(alice, "some honey")
    talk.say(bob, "two", **_mention(ignorer))
    last = talk.say(alice, "all of you", **{"m.mentions": {"user_ids": [d.person.user_id for d in devices]}})
    for device in devices:
        device.sync_to(last)
    assert [device.counts[room_id] for device in devices] == [(0, 0), (1, 1), (0, 0), (1, 1), (4, 2), (3, 1)]
    muted.ask("DELETE", f"/pushrules/global/override/{quoted}")
    again = talk.say(alice, "and now?")
    for device in devices:
        device.sync_to(again)
    assert devices[2].counts[room_id] == (1, 0)  # the changed rules apply to later events
    assert _Device(muted).counts[room_id] == (1, 0)


def test_receipts_and_thread_counts_reach_all_devices(hive: RunningFleet) -> None:
    alice, bob = register(hive, "anna"), register(hive, "ben")
    talk = _Talk(_room(alice, bob))
    identifier = {"type": "m.id.user", "user": bob.user_id}
    login = {"type": "m.login.password", "identifier": identifier, "password": bob.password}
    made = call(hive.client_url, "POST", f"{CLIENT}/login", body=login).json()
    other = Person(bob.url, bob.user_id, bob.password, made["device_id"], made["access_token"])
    desk, phone, stranger = _Device(bob, threads=True), _Device(other, threads=True), _Device(alice)
    room_id = talk.room_id
    root = talk.say(alice, "root")
    reply = talk.say(alice, "reply", **_in_thread(root))
    edit = {"m.relates_to": {"rel_type": "m.reference", "event_id": reply}}
    related = talk.say(alice, "about the reply", **edit)
    for device in (desk, phone):
        device.sync_to(related)
        assert (device.counts[room_id], device.threads[room_id]) == ((1, 0), {root: 2})
    talk.read(bob, root, "m.read.private", "main")
    phone.sync_until(room_id, (0, 0))
    assert phone.threads[room_id] == {root: 2}
    refused = bob.call("POST", _room_path(room_id, f"receipt/m.read/{quote(reply, safe='')}"), {"thread_id": "main"})
    assert (refused.status, refused.json()["errcode"]) == (400, "M_INVALID_PARAM")
    talk.read(other, related, "m.read", root)
    while desk.threads[room_id]:
        desk.sync(5_000)
    path = "/sync?filter=" + quote('{"room":{"timeline":{"limit":1}}}')
    for viewer, private in ((alice, False), (bob, True)):
        section = viewer.ask("GET", path)["rooms"]["join"][room_id]
        receipts = [event["content"] for event in section["ephemeral"]["events"] if event["type"] == "m.receipt"]
        kinds = {kind for content in receipts for kinds in content.values() for kind in kinds}
        assert kinds == ({"m.read", "m.read.private"} if private else {"m.read"})
    assert stranger.counts[room_id] == (0, 0)


def test_notifications_are_listed_in_pages(hive: RunningFleet) -> None:
    alice, bob, carol = (register(hive, name) for name in ("amy", "bert", "carl"))
    talks = [_Talk(_room(alice, bob, carol)) for _ in range(3)]
    expected: list[tuple[str, str, bool]] = []
    for number in range(9):
        talk = talks[number % 3]
        highlight = number % 4 == 0
        thread = _in_thread(expected[number - 3][0]) if number == 5 else {}
        sent = talk.say(alice, f"n{number}", **thread, **(_mention(bob) if highlight else {}))
        expected.append((sent, talk.room_id, highlight))
        talk.say(bob, "own events notify nobody here", msgtype="m.notice")
    gone = talks[0].say(alice, "taken back")
    alice.ask("PUT", _room_path(talks[0].room_id, f"redact/{quote(gone, safe='')}/r"), {})
    ignored = talks[1].say(carol, "from somebody ignored later")
    bob.ask(
        "PUT", f"/user/{quote(bob.user_id)}/account_data/m.ignored_user_list", {"ignored_users": {carol.user_id: {}}}
    )
    expected.reverse()
    told: list[Any] = []
    token, pages = "", 0
    while True:
        answer = bob.ask("GET", f"/notifications?limit=4{token}")
        check_answer("notifications.yaml", "/notifications", "get", answer)
        told += answer["notifications"]
        pages += 1
        if "next_token" not in answer:
            break
        token = f"&from={answer['next_token']}"
    assert pages >= 3
    assert ignored not in {each["event"]["event_id"] for each in told}
    assert [
        (each["event"]["event_id"], each["room_id"], {"set_tweak": "highlight"} in each["actions"]) for each in told
    ] == expected
    # Bob's own later event in each main timeline marks it as read, but not the thread.
    assert [each["event"]["content"]["body"] for each in told if not each["read"]] == ["n5"]
    assert all(each["actions"][0] == "notify" and "room_id" not in each["event"] for each in told)
    only = bob.ask("GET", "/notifications?only=highlight&limit=2")
    assert [each["event"]["event_id"] for each in only["notifications"]] == [e for e, _, loud in expected if loud][:2]
    rest = bob.ask("GET", f"/notifications?only=highlight&from={only['next_token']}")
    assert [each["event"]["event_id"] for each in rest["notifications"]] == [e for e, _, loud in expected if loud][2:]
    assert "next_token" not in rest
    talks[0].read(bob, told[-1]["event"]["event_id"])  # before Bob's read position: no effect
    talks[2].read(bob, expected[0][0])
    assert all(each["read"] for each in bob.ask("GET", "/notifications")["notifications"])
    others = alice.ask("GET", "/notifications")["notifications"]
    assert [each["event"]["event_id"] for each in others] == [ignored]
    for query in ("from=nonsense", "limit=x", "limit=0", "only=some"):
        assert bob.call("GET", f"/notifications?{query}").json()["errcode"] == "M_INVALID_PARAM"
