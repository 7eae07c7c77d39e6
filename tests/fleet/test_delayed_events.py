"""MSC4140, delayed events, on a fleet: every form of the request, on time, exactly once, and through kills."""

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import Answer, call
from tests.rigs.waiting import wait_until

_STABLE = "/_matrix/client/v1/delayed_events"
_UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
_HOUR_MS = 3_600_000
_names = itertools.count(1)


@pytest.fixture
def alice(restless_fleet: RunningFleet) -> Person:
    return register(restless_fleet, f"alice-d{next(_names)}")


def _path(room_id: str, kind: str, event_type: str, last: str) -> str:
    return f"/rooms/{quote(room_id)}/{kind}/{event_type}/{quote(last, safe='')}"


def _schedule(
    person: Person, room_id: str, txn: str, delay_ms: int, content: Any, event_type: str = "m.room.message"
) -> str:
    path = _path(room_id, "send", event_type, txn) + f"?org.matrix.msc4140.delay={delay_ms}"
    delay_id: str = person.ask("PUT", path, content)["delay_id"]
    return delay_id


def _manage(person: Person, delay_id: str, action: str, base: str = _STABLE) -> Answer:
    return call(person.url, "POST", f"{base}/{delay_id}/{action}", token=person.token, body={})


def _look(person: Person, delay_id: str) -> Any:
    return call(person.url, "GET", f"{_STABLE}/{delay_id}", token=person.token).json()


def _sent(person: Person, delay_id: str) -> Any:
    return _look(person, delay_id).get("event_id")


def _bodies(person: Person, room_id: str) -> list[str]:
    """Return the texts of all messages in the room."""
    texts, since = [], ""
    while True:
        page = person.ask("GET", f"/rooms/{quote(room_id)}/messages?dir=f&limit=100{since}")
        texts += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if not page["chunk"]:
            return texts
        since = "&from=" + quote(page["end"])


def test_msc4140_all_request_forms_schedule_the_event(alice: Person) -> None:
    room = alice.create_room()
    began_ms = time.time() * 1000
    old_send = _schedule(alice, room, "old", 300, {"body": "old", "msgtype": "m.text"})
    assert _schedule(alice, room, "old", 300, {"body": "old"}) == old_send, "a retransmission schedules nothing"
    state_path = _path(room, "state", "org.example.call", "me") + "?org.matrix.msc4140.delay=300"
    old_state = alice.ask("PUT", state_path, {"left": True})["delay_id"]
    new = {}
    for name, base in (("v3", "/_matrix/client/v3"), ("un", "/_matrix/client/unstable/org.matrix.msc4140")):
        body = {"delay_ms": 300, "content": {"body": name, "msgtype": "m.text"}}
        path = base + _path(room, "delayed_event", "m.room.message", f"new {name}")
        new[name] = call(alice.url, "PUT", path, token=alice.token, body=body).json()["delay_id"]
    body = {"delay_ms": _HOUR_MS, "state_key": "later", "content": {"x": 1}}
    path = "/_matrix/client/v3" + _path(room, "delayed_event", "org.example.call", "state")
    later = call(alice.url, "PUT", path, token=alice.token, body=body).json()["delay_id"]
    listed = call(alice.url, "GET", _STABLE, token=alice.token).json()["delayed_events"]
    # "Getting a list of delayed events": in the order of their send times, with these fields.
    assert listed[-1]["delay_id"] == later and {old_send, old_state, *new.values()} >= {
        e["delay_id"] for e in listed[:-1]
    }
    assert listed[-1] == {
        "delay_id": later,
        "room_id": room,
        "type": "org.example.call",
        "state_key": "later",
        "delay_ms": _HOUR_MS,
        "scheduled_at": listed[-1]["scheduled_at"],
        "content": {"x": 1},
    }
    assert abs(listed[-1]["scheduled_at"] - began_ms) < 10_000
    older = call(alice.url, "GET", _UNSTABLE, token=alice.token).json()["delayed_events"][-1]
    assert (older["delay"], older["running_since"]) == (_HOUR_MS, listed[-1]["scheduled_at"])

    sent = wait_until(lambda: (found := _look(alice, old_send)).get("event_id") and found)
    assert sent["finalised_ts"] >= sent["scheduled_at"] + 300, "never before its time"
    assert sent["content"] == {"body": "old", "msgtype": "m.text"} and "error" not in sent and "state_key" not in sent
    for delay_id in (old_state, *new.values()):
        wait_until(partial(_sent, alice, delay_id))
    assert sorted(_bodies(alice, room)) == ["old", "un", "v3"]
    assert alice.ask("GET", _path(room, "state", "org.example.call", "me")) == {"left": True}
    # "delay_id in unsigned event data": for its sender, on each of their devices.
    event_path = f"/rooms/{quote(room)}/event/{quote(sent['event_id'], safe='')}"
    unsigned = alice.ask("GET", event_path)["unsigned"]
    assert unsigned["delay_id"] == unsigned["org.matrix.msc4140.delay_id"] == old_send
    assert "transaction_id" not in unsigned


def test_msc4140_owner_can_send_cancel_and_restart(restless_fleet: RunningFleet, alice: Person) -> None:
    room, bob = alice.create_room(), register(restless_fleet, f"bob-d{next(_names)}")
    bob.ask("POST", f"/rooms/{quote(room)}/join", {})
    first, second, third, fourth = [
        _schedule(alice, room, str(n), _HOUR_MS, {"body": str(n), "msgtype": "m.text"}) for n in range(4)
    ]
    # Other users' events and unknown ids are not found. Under the unstable path the id is enough.
    assert _manage(bob, first, "send").errcode == "M_NOT_FOUND" == _manage(alice, "none", "cancel").errcode
    assert call(alice.url, "GET", f"{_STABLE}/{first}", token=bob.token).errcode == "M_NOT_FOUND"
    assert call(alice.url, "POST", f"{_STABLE}/{first}/restart", body={}).errcode == "M_MISSING_TOKEN"
    assert _manage(alice, first, "eat").errcode == "M_UNRECOGNIZED"
    assert call(alice.url, "POST", f"{_UNSTABLE}/{first}/restart", body={}).status == 200
    assert call(alice.url, "POST", f"{_UNSTABLE}/{fourth}", body={"action": "cancel"}).json() == {}
    assert call(alice.url, "POST", f"{_UNSTABLE}/{fourth}", body={"action": "x"}).errcode == "M_BAD_JSON"
    assert (_manage(alice, first, "send").json(), _manage(alice, second, "cancel").json()) == ({}, {})
    assert _bodies(bob, room) == ["0"]
    seen = _look(alice, first)
    assert seen["finalised_ts"] < seen["scheduled_at"] + _HOUR_MS and seen["event_id"]
    assert "event_id" not in (cancelled := _look(alice, second)) and "error" not in cancelled
    # An action that repeats the outcome succeeds. One that contradicts it is a conflict.
    for delay_id, answers in ((first, (200, 409, 409)), (second, (409, 200, 409)), (fourth, (409, 200, 409))):
        assert tuple(_manage(alice, delay_id, action).status for action in ("send", "cancel", "restart")) == answers
    assert _manage(alice, first, "cancel").errcode == "M_UNKNOWN"
    # Bob does not see that the event was delayed.
    event_path = f"/rooms/{quote(room)}/event/{quote(seen['event_id'], safe='')}"
    assert "delay_id" not in bob.ask("GET", event_path)["unsigned"]
    # An event that is not allowed now stays scheduled, and can be sent once it is allowed.
    bobs = _schedule(bob, room, "topic", _HOUR_MS, {"topic": "honey"}, "m.room.topic")
    assert bob.call("PUT", _path(room, "state", "m.room.topic", ""), {"topic": "x"}).errcode == "M_FORBIDDEN"
    path = _path(room, "state", "m.room.topic", "") + f"?org.matrix.msc4140.delay={_HOUR_MS}"
    topic = bob.ask("PUT", path, {"topic": "honey"})["delay_id"]
    refused = _manage(bob, topic, "send")
    assert (refused.status, refused.errcode, "finalised_ts" in _look(bob, topic)) == (403, "M_FORBIDDEN", False)
    levels = alice.ask("GET", _path(room, "state", "m.room.power_levels", ""))
    alice.ask("PUT", _path(room, "state", "m.room.power_levels", ""), {**levels, "users_default": 50})
    assert _manage(bob, topic, "send").status == 200
    assert alice.ask("GET", _path(room, "state", "m.room.topic", ""))["topic"] == "honey"
    assert _manage(bob, bobs, "cancel").status == _manage(alice, third, "cancel").status == 200


def test_msc4140_guest_can_schedule_and_send(restless_fleet: RunningFleet, alice: Person) -> None:
    room = alice.create_room(initial_state=[_guests_may_join()])
    made = call(alice.url, "POST", "/_matrix/client/v3/register?kind=guest", body={}).json()
    guest = Person(alice.url, made["user_id"], "", made["device_id"], made["access_token"])
    guest.ask("POST", f"/rooms/{quote(room)}/join", {})
    delay_id = _schedule(guest, room, "g", _HOUR_MS, {"body": "guest", "msgtype": "m.text"})
    assert _manage(guest, delay_id, "restart").status == 200
    assert call(guest.url, "GET", _STABLE, token=guest.token).json()["delayed_events"][0]["delay_id"] == delay_id
    assert _manage(guest, delay_id, "send").status == 200
    assert _bodies(alice, room) == ["guest"]


def _guests_may_join() -> Any:
    return {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}}


def test_msc4140_limits_and_bad_input(alice: Person) -> None:
    room = alice.create_room()
    send = _path(room, "send", "m.room.message", "x")
    for query, errcode in (
        ("0", "M_INVALID_PARAM"),
        ("-1", "M_INVALID_PARAM"),
        ("x", "M_INVALID_PARAM"),
        ("3600001", "M_FORBIDDEN"),
    ):
        assert alice.call("PUT", f"{send}?org.matrix.msc4140.delay={query}", {}).errcode == errcode
    new = _path(room, "delayed_event", "m.room.message", "x")
    for body, errcode in (
        ({"delay_ms": 0, "content": {}}, "M_BAD_JSON"),
        ({"delay_ms": 1}, "M_BAD_JSON"),
        ({"delay_ms": 3_600_001, "content": {}}, "M_FORBIDDEN"),
        ({"delay_ms": 5, "content": {"x": "y" * 66_000}}, "M_TOO_LARGE"),
    ):
        assert alice.call("PUT", new, body).errcode == errcode, body
    elsewhere = _path("!none:example.org", "delayed_event", "m.room.message", "x")
    assert alice.call("PUT", elsewhere, {"delay_ms": 5, "content": {}}).errcode == "M_FORBIDDEN"
    limits = alice.ask("GET", "/capabilities")["capabilities"]["m.delayed_events"]
    assert limits == {"max_delay_ms": _HOUR_MS, "max_scheduled": 250}
    features = call(alice.url, "GET", "/_matrix/client/versions").json()["unstable_features"]
    assert features["org.matrix.msc4140"] is features["org.matrix.msc4140.stable"] is True
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda n: _schedule(alice, room, f"full {n}", _HOUR_MS, {"body": str(n)}), range(250)))
    full = alice.call("PUT", _path(room, "send", "m.room.message", "y") + "?org.matrix.msc4140.delay=5", {"body": "y"})
    assert (full.status, full.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 3000 < int(full.header("retry-after") or 0) <= 3600
    assert _manage(alice, ids[0], "cancel").status == 200
    assert _schedule(alice, room, "again", _HOUR_MS, {"body": "fits"})


def test_msc4140_event_is_authorised_when_sent_and_cancelled_by_newer_state(
    restless_fleet: RunningFleet, alice: Person
) -> None:
    room, bob = alice.create_room(), register(restless_fleet, f"bob-d{next(_names)}")
    bob.ask("POST", f"/rooms/{quote(room)}/join", {})
    levels = alice.ask("GET", _path(room, "state", "m.room.power_levels", ""))
    alice.ask("PUT", _path(room, "state", "m.room.power_levels", ""), {**levels, "state_default": 0})
    delay = f"?org.matrix.msc4140.delay={_HOUR_MS}"
    by_alice, hers, other = [
        alice.ask("PUT", _path(room, "state", kind, key) + delay, {"left": True})["delay_id"]
        for kind, key in (("org.example.call", "a"), ("org.example.call", "b"), ("org.example.x", "a"))
    ]
    alice.ask("PUT", _path(room, "state", "org.example.call", "b"), {"joined": True})
    bob.ask("PUT", _path(room, "state", "org.example.call", "a"), {"joined": True})
    assert _manage(alice, by_alice, "restart").status == 409 and "event_id" not in _look(alice, by_alice)
    assert _manage(alice, hers, "restart").status == _manage(alice, other, "restart").status == 200
    # Bob is banned before the event is due. They see the error, Alice sees nothing.
    late = _schedule(bob, room, "late", 400, {"body": "late", "msgtype": "m.text"})
    alice.ask("POST", f"/rooms/{quote(room)}/ban", {"user_id": bob.user_id})
    failed = wait_until(lambda: (found := _look(bob, late)).get("finalised_ts") and found)
    assert failed["error"]["errcode"] == "M_FORBIDDEN" and "event_id" not in failed
    assert _bodies(alice, room) == []
    # A user schedules a redaction of their own message.
    sent = alice.send(room, "boom", {"body": "boom", "msgtype": "m.text"}).json()["event_id"]
    redaction = _schedule(alice, room, "r", 200, {"redacts": sent}, "m.room.redaction")
    wait_until(lambda: _look(alice, redaction).get("event_id"))
    shown = alice.ask("GET", f"/rooms/{quote(room)}/event/{quote(sent, safe='')}")
    assert shown["content"] == {} and shown["unsigned"]["redacted_because"]["type"] == "m.room.redaction"


def test_msc4169_redaction_by_send_in_an_old_room_version(alice: Person) -> None:
    room = alice.create_room(room_version="10")
    sent = alice.send(room, "one", {"body": "one", "msgtype": "m.text"}).json()["event_id"]
    redaction = {"redacts": sent, "reason": "because"}
    answer = alice.send(room, "two", redaction, "m.room.redaction").json()
    assert alice.send(room, "two", redaction, "m.room.redaction").json() == answer, "the same transaction"
    assert alice.ask("GET", f"/rooms/{quote(room)}/event/{quote(sent, safe='')}")["content"] == {}
    # Between servers `redacts` is where version 10 has it. Clients see it in both places.
    filter_ = quote('{"event_format":"federation","room":{"timeline":{"limit":1}}}')
    synced = wait_until(lambda: alice.ask("GET", f"/sync?filter={filter_}")["rooms"]["join"].get(room))
    pdu = synced["timeline"]["events"][0]
    assert (pdu["redacts"], pdu["content"]) == (sent, {"reason": "because"})
    shown = alice.ask("GET", f"/rooms/{quote(room)}/event/{quote(answer['event_id'], safe='')}")
    assert shown["redacts"] == shown["content"]["redacts"] == sent
    features = call(alice.url, "GET", "/_matrix/client/versions").json()["unstable_features"]
    assert features["com.beeper.msc4169"] is True


def test_msc4140_restarted_event_waits(restless_fleet: RunningFleet, alice: Person) -> None:
    """Heartbeats of eight calls: no event is sent while they continue, and each is sent once after they stop."""
    room = alice.create_room()
    ids = [_schedule(alice, room, f"call {n}", 1500, {"body": f"left {n}", "msgtype": "m.text"}) for n in range(8)]
    stop = threading.Event()

    def beat(delay_id: str) -> int:
        beats = 0
        while not stop.wait(0.1):
            assert _manage(alice, delay_id, "restart", _UNSTABLE).status == 200
            beats += 1
        return beats

    with ThreadPoolExecutor(8) as pool:
        beating = [pool.submit(beat, delay_id) for delay_id in ids]
        time.sleep(2.5)  # longer than the delay
        assert _bodies(alice, room) == []
        stop.set()
        assert all(beats.result() > 5 for beats in beating)
    wait_until(lambda: len(_bodies(alice, room)) == 8)
    for delay_id in ids:
        seen = _look(alice, delay_id)
        assert seen["finalised_ts"] >= seen["scheduled_at"] + 1500
    assert sorted(_bodies(alice, room)) == [f"left {n}" for n in range(8)]


@pytest.mark.parametrize("victim", ["background", "event_persister"])
def test_msc4140_each_event_is_sent_once_through_kills(
    restless_fleet: RunningFleet, alice: Person, victim: str
) -> None:
    """The sending or the storing workers are killed while 200 delayed events are due. Each event is sent once."""
    rooms = [alice.create_room() for _ in range(4)]
    texts = [f"{victim} {n}" for n in range(200)]
    with ThreadPoolExecutor(6) as pool:
        due_ms = int(time.time() * 1000) + 4000

        def one(n: int) -> str:
            content = {"body": texts[n], "msgtype": "m.text"}
            return _schedule(alice, rooms[n % 4], texts[n], max(200, due_ms - int(time.time() * 1000) + n), content)

        ids = list(pool.map(one, range(200)))

    def sent() -> int:
        listed = call(alice.url, "GET", _STABLE, token=alice.token).json()["delayed_events"]
        return 200 - len(listed)

    wait_until(lambda: sent() > 5)
    restless_fleet.kill(f"{victim}-1")
    wait_until(lambda: sent() > 60)
    restless_fleet.kill(f"{victim}-2")
    wait_until(lambda: sent() == 200)
    seen = [_look(alice, delay_id) for delay_id in ids]
    assert all(each.get("event_id") for each in seen), [each for each in seen if not each.get("event_id")][:3]
    found = Counter(text for room in rooms for text in _bodies(alice, room))
    assert found == Counter(texts), (found - Counter(texts), Counter(texts) - found)
