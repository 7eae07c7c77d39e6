"""MSC4354, sticky events, on a fleet: in the timeline or beside it, for new members, until they expire."""

import itertools
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import call
from tests.rigs.waiting import wait_until

_DURATION = "org.matrix.msc4354.sticky_duration_ms"
_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_EXTENSION = "org.matrix.msc4354.sticky_events"
_TTL = "msc4354_sticky_duration_ttl_ms"
_HOUR_MS = 3_600_000
_names = itertools.count(1)


@pytest.fixture
def people(experimental_fleet: RunningFleet) -> tuple[Person, Person, str]:
    alice, bob = [register(experimental_fleet, f"{name}-s{next(_names)}") for name in ("alice", "bob")]
    room = alice.create_room(initial_state=[_visibility("joined")])
    bob.ask("POST", f"/rooms/{quote(room)}/join", {})
    return alice, bob, room


def _visibility(value: str) -> Any:
    return {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": value}}


def _stick(person: Person, room: str, text: str, duration_ms: int = _HOUR_MS, kind: str = "org.example.rtc") -> str:
    path = f"/rooms/{quote(room)}/send/{kind}/{quote(text)}?{_DURATION}={duration_ms}"
    event_id: str = person.ask("PUT", path, {"body": text, "msgtype": "m.text"})["event_id"]
    return event_id


def _chat(person: Person, room: str, number: int) -> None:
    for _ in range(number):
        assert person.send(room, f"chat {next(_names)}", {"body": "chat", "msgtype": "m.text"}).status == 200


def _sync(person: Person, since: str | None = None, timeline: Any = None, timeout: int = 0) -> Any:
    filter_ = quote(f'{{"room":{{"timeline":{timeline or "{}"}}}}}')
    return person.ask("GET", f"/sync?timeout={timeout}&filter={filter_}" + (f"&since={since}" if since else ""))


def _sections(answer: Any, room: str) -> tuple[list[str], list[str]]:
    """Return the texts of the sticky events in the timeline, and of those beside it."""
    joined = answer.get("rooms", {}).get("join", {}).get(room, {})
    timeline = [e["content"].get("body") for e in joined.get("timeline", {}).get("events", ()) if "msc4354_sticky" in e]
    beside = joined.get("msc4354_sticky", {}).get("events", [])
    for event in beside:
        assert event["msc4354_sticky"]["duration_ms"] >= event["unsigned"][_TTL] > 0
    return timeline, [event["content"]["body"] for event in beside]


def _sliding(person: Person, pos: str | None = None, **extension: Any) -> Any:
    body = {
        "lists": {"all": {"ranges": [[0, 10]], "timeline_limit": 2, "required_state": []}},
        "extensions": {_EXTENSION: {"enabled": True, **extension}},
    }
    query = "?timeout=0" + (f"&pos={quote(pos)}" if pos else "")
    answer = call(person.url, "POST", _SLIDING + query, token=person.token, body=body)
    assert answer.status == 200, answer
    return answer.json()


def test_msc4354_sticky_event_appears_in_timeline_or_beside_it(people: tuple[Person, Person, str]) -> None:
    alice, bob, room = people
    since = wait_until(lambda: (a := _sync(bob)) and room in a["rooms"]["join"] and a)["next_batch"]
    event_id = _stick(alice, room, "first")
    alice.ask("PUT", f"/rooms/{quote(room)}/state/org.example.rtc/me?{_DURATION}=600000", {"body": "state"})
    answer = wait_until(lambda: (a := _sync(bob, since)) and len(_sections(a, room)[0]) == 2 and a)
    assert _sections(answer, room) == (["first", "state"], []), "not twice"
    first = answer["rooms"]["join"][room]["timeline"]["events"][0]
    assert first["msc4354_sticky"] == {"duration_ms": _HOUR_MS} and 0 < first["unsigned"][_TTL] <= _HOUR_MS
    # A later token does not return it again. Beyond the limit or the filter it comes beside the timeline.
    assert _sections(_sync(bob, answer["next_batch"]), room) == ([], [])
    _chat(alice, room, 3)
    wait_until(lambda: _sections(_sync(bob, since, '{"limit":2}'), room) == ([], ["first", "state"]))
    assert _sections(_sync(bob, since, '{"not_types":["org.example.rtc"]}'), room) == ([], ["first", "state"])
    assert _sections(_sync(bob, since), room) == (["first", "state"], [])
    shown = bob.ask("GET", f"/rooms/{quote(room)}/event/{quote(event_id, safe='')}")
    assert shown["msc4354_sticky"] == {"duration_ms": _HOUR_MS}
    # A redaction removes it. Events of an ignored sender are hidden.
    alice.ask("PUT", f"/rooms/{quote(room)}/redact/{quote(event_id, safe='')}/r", {})
    wait_until(lambda: _sections(_sync(bob, since, '{"limit":1}'), room)[1] == ["state"])
    path = f"/user/{quote(bob.user_id)}/account_data/m.ignored_user_list"
    bob.ask("PUT", path, {"ignored_users": {alice.user_id: {}}})
    wait_until(lambda: _sections(_sync(bob, since, '{"limit":1}'), room)[1] == [])


def test_msc4354_new_member_gets_sticky_events_until_they_expire(
    experimental_fleet: RunningFleet, people: tuple[Person, Person, str]
) -> None:
    alice, bob, room = people
    _stick(alice, room, "short", 2500)
    _stick(alice, room, "never", 0)
    _stick(alice, room, "long")
    _chat(alice, room, 4)
    carol = register(experimental_fleet, f"carol-s{next(_names)}")
    since = _sync(carol)["next_batch"]
    carol.ask("POST", f"/rooms/{quote(room)}/join", {})
    # Carol cannot see the room's history but gets its sticky events.
    answer = wait_until(lambda: (a := _sync(carol, since)) and room in a.get("rooms", {}).get("join", {}) and a)
    assert _sections(answer, room) == ([], ["short", "long"])
    assert _sections(_sync(carol, answer["next_batch"]), room) == ([], [])
    # An initial sync returns them too. After it expires, an event is like any other.
    wait_until(lambda: _sections(_sync(bob, None, '{"limit":1}'), room) == ([], ["long"]))
    # A restarted synchrotron knows earlier sticky events.
    for name in ("synchrotron-1", "synchrotron-2"):
        experimental_fleet.kill(name)

    def again() -> bool:
        answer = bob.call("GET", "/sync?filter=" + quote('{"room":{"timeline":{"limit":1}}}'))
        return answer.status == 200 and _sections(answer.json(), room) == ([], ["long"])

    wait_until(again)
    for value in ("-1", "3600001", "x"):
        path = f"/rooms/{quote(room)}/send/org.example.rtc/bad?{_DURATION}={value}"
        assert alice.call("PUT", path, {}).errcode == "M_INVALID_PARAM"
    features = call(bob.url, "GET", "/_matrix/client/versions").json()["unstable_features"]
    assert features["org.matrix.msc4354"] is True


def test_msc4354_sliding_sync_pages_sticky_events_oldest_first(
    experimental_fleet: RunningFleet, people: tuple[Person, Person, str]
) -> None:
    alice, bob, room = people
    for number in range(5):
        _stick(alice, room, f"s{number}")
    _chat(alice, room, 3)
    got: list[str] = []
    pos = since = None

    def look(**more: Any) -> list[str]:
        nonlocal pos, since
        answer = _sliding(bob, pos, **({"since": since} if since else {}), **more)
        pos = answer["pos"]
        told = answer["extensions"].get(_EXTENSION, {})
        since = told.get("next_batch", since)
        texts = [event["content"]["body"] for event in told.get("rooms", {}).get(room, {}).get("events", ())]
        got.extend(texts)
        return texts

    # Pages come oldest first.
    def begins() -> bool:
        del got[:]
        return look(limit=2) == ["s0", "s1"]

    wait_until(begins)
    assert look(limit=2) == ["s2", "s3"] and look(limit=2) == ["s4"] and look(limit=2) == []
    # An event in the timeline is not repeated in the extension. A delayed event can be sticky too (MSC4140).
    _stick(alice, room, "shown")
    wait_until(lambda: look() == [] and _last_shown(bob, room) == "shown")
    assert "shown" not in got
    path = f"/rooms/{quote(room)}/send/org.example.rtc/later?{_DURATION}=60000&org.matrix.msc4140.delay=1"
    alice.ask("PUT", path, {"body": "later"})
    wait_until(lambda: "later" in _sections(_sync(bob, None, '{"limit":5}'), room)[0])
    carol = register(experimental_fleet, f"carol-s{next(_names)}")
    pos = since = None
    bob = carol
    look()
    carol.ask("POST", f"/rooms/{quote(room)}/join", {})
    wait_until(lambda: {"s0", "s4", "shown", "later"} <= set(look()))
    assert look() == []


def _last_shown(person: Person, room: str) -> str:
    events = _sync(person, None, '{"limit":1}')["rooms"]["join"][room]["timeline"]["events"]
    body: str = events[-1]["content"].get("body", "")
    return body
