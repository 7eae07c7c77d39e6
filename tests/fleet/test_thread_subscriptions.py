"""MSC4306 and MSC4308, thread subscriptions, on a fleet: the rules, both ways to read them, and unread counts."""

import itertools
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register
from tests.fleet.raw_http import Answer, call
from tests.rigs.waiting import wait_until

_UNSTABLE = "/_matrix/client/unstable"
_SLIDING = f"{_UNSTABLE}/org.matrix.simplified_msc3575/sync"
_PAGES = f"{_UNSTABLE}/io.element.msc4308/thread_subscriptions"
_EXTENSION = "io.element.msc4308.thread_subscriptions"
_names = itertools.count(1)


@pytest.fixture
def alice(experimental_fleet: RunningFleet) -> Person:
    return register(experimental_fleet, f"alice-t{next(_names)}")


@pytest.fixture
def bob(experimental_fleet: RunningFleet) -> Person:
    return register(experimental_fleet, f"bob-t{next(_names)}")


def _room(alice: Person, bob: Person) -> str:
    room = alice.create_room()
    bob.ask("POST", f"/rooms/{quote(room)}/join", {})
    return room


def _say(person: Person, room_id: str, text: str, thread_id: str | None = None, **more: Any) -> str:
    content: dict[str, Any] = {"body": text, "msgtype": "m.text", **more}
    if thread_id is not None:
        content["m.relates_to"] = {"rel_type": "m.thread", "event_id": thread_id}
    event_id: str = person.send(room_id, f"{text} {next(_names)}", content).json()["event_id"]
    return event_id


def _subscription(person: Person, method: str, room_id: str, thread_id: str, body: Any = b"") -> Answer:
    path = f"{_UNSTABLE}/io.element.msc4306/rooms/{quote(room_id)}/thread/{quote(thread_id, safe='')}/subscription"
    return call(person.url, method, path, token=person.token, body=body)


def _sliding(person: Person, pos: str | None = None, timeout: int = 0, limit: int = 100) -> Any:
    query = f"?timeout={timeout}" + (f"&pos={quote(pos)}" if pos else "")
    body = {"extensions": {_EXTENSION: {"enabled": True, "limit": limit}}}
    answer = call(person.url, "POST", _SLIDING + query, token=person.token, body=body)
    assert answer.status == 200, answer
    return answer.json()


def test_msc4306_subscribe_and_unsubscribe(alice: Person, bob: Person) -> None:
    room, eve = _room(alice, bob), bob
    root = _say(alice, room, "root")
    cause = _say(alice, room, "hello bob", root)
    other = _say(alice, room, "elsewhere")
    assert _subscription(bob, "GET", room, root).errcode == "M_NOT_FOUND"
    assert _subscription(bob, "DELETE", room, root).json() == {}, "idempotent"
    assert _subscription(bob, "PUT", room, root, {"automatic": cause}).json() == {}
    assert _subscription(bob, "GET", room, root).json() == {"automatic": True}
    # A manual subscription replaces an automatic one, but not the reverse.
    assert _subscription(bob, "PUT", room, root).json() == _subscription(bob, "PUT", room, root, {}).json() == {}
    assert _subscription(bob, "GET", room, root).json() == {"automatic": False}
    assert _subscription(bob, "PUT", room, root, {"automatic": cause}).status == 200
    assert _subscription(bob, "GET", room, root).json() == {"automatic": False}
    # A cause from before the user unsubscribed does not subscribe them again. A later one does.
    assert _subscription(bob, "DELETE", room, root).json() == {}
    for _ in range(3):
        refused = _subscription(bob, "PUT", room, root, {"automatic": cause})
        assert (refused.status, refused.errcode) == (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
    assert _subscription(bob, "GET", room, root).errcode == "M_NOT_FOUND"
    later = _say(alice, room, "bob again", root)
    assert _subscription(bob, "PUT", room, root, {"automatic": later}).json() == {}
    for wrong in (other, root, "$none"):
        refused = _subscription(bob, "PUT", room, root, {"automatic": wrong})
        assert (refused.status, refused.errcode) == (400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
    assert _subscription(bob, "PUT", room, root, {"automatic": True}).errcode == "M_BAD_JSON"
    for method in ("PUT", "GET", "DELETE"):
        assert _subscription(bob, method, room, "$none", {}).errcode == "M_NOT_FOUND"
    closed = alice.create_room(preset="private_chat")
    assert _subscription(eve, "PUT", closed, _say(alice, closed, "root"), {}).errcode == "M_NOT_FOUND"
    assert call(bob.url, "GET", "/_matrix/client/versions").json()["unstable_features"]["org.matrix.msc4306"] is True


def test_msc4308_sliding_sync_and_pages_report_changes(alice: Person, bob: Person) -> None:
    room = _room(alice, bob)
    roots = [_say(alice, room, f"root {n}") for n in range(6)]
    pos = _sliding(bob)["pos"]
    for root in roots[:4]:
        assert _subscription(bob, "PUT", room, root, {}).status == 200
    _subscription(bob, "DELETE", room, roots[0])
    seen: dict[str, Any] = {}
    first_pos = pos

    def look() -> bool:
        nonlocal pos
        answer = _sliding(bob, pos)
        pos = answer["pos"]
        told = answer["extensions"].get(_EXTENSION, {})
        for kind in ("subscribed", "unsubscribed"):
            seen.update({thread: (kind, one) for thread, one in told.get(kind, {}).get(room, {}).items()})
        return len(seen) == 4 and seen[roots[0]][0] == "unsubscribed"

    wait_until(look)
    stamps = [seen[root][1]["bump_stamp"] for root in roots[1:4]]
    assert stamps == sorted(stamps) and seen[roots[0]][1]["bump_stamp"] > stamps[-1]
    assert seen[roots[1]] == ("subscribed", {"automatic": False, "bump_stamp": stamps[0]})
    assert "extensions" not in (quiet := _sliding(bob, pos)) or _EXTENSION not in quiet["extensions"]
    # A waiting client wakes and gets only the change.
    _subscription(bob, "PUT", room, roots[4], {})
    began = time.monotonic()
    woken = _sliding(bob, pos, timeout=10_000)
    assert list(woken["extensions"][_EXTENSION]["subscribed"][room]) == [roots[4]] and time.monotonic() - began < 5
    # With a limit the answer has the latest changes, and a token for the earlier ones back to the request's pos.
    fresh = _sliding(bob, limit=2)["extensions"][_EXTENSION]
    assert set(fresh["subscribed"][room]) == {roots[4]} and set(fresh["unsubscribed"][room]) == {roots[0]}
    pages, token = [], fresh["prev_batch"]
    while token is not None:
        page = call(bob.url, "GET", f"{_PAGES}?dir=b&limit=2&from={token}", token=bob.token).json()
        pages += [thread for rooms in (page["subscribed"], page["unsubscribed"]) for thread in rooms.get(room, {})]
        token = page.get("end")
    assert sorted(pages) == sorted(roots[1:4])
    # (Only the latest state of a thread is reported, never intermediate ones.)
    since = _sliding(bob, first_pos, limit=1)["extensions"][_EXTENSION]
    path = f"{_PAGES}?dir=b&from={since['prev_batch']}&to="
    assert len(call(bob.url, "GET", path + quote(first_pos), token=bob.token).json()["subscribed"][room]) == 3
    assert call(bob.url, "GET", path + quote(pos), token=bob.token).json() == {"subscribed": {}, "unsubscribed": {}}
    everything = call(bob.url, "GET", f"{_PAGES}?dir=b", token=bob.token).json()
    assert set(everything["subscribed"][room]) == set(roots[1:5])
    assert set(everything["unsubscribed"][room]) == {roots[0]}
    for query, errcode in (
        ("", "M_MISSING_PARAM"),
        ("?dir=f", "M_INVALID_PARAM"),
        ("?dir=b&limit=0", "M_INVALID_PARAM"),
        ("?dir=b&from=x", "M_INVALID_PARAM"),
        ("?dir=b&to=x", "M_INVALID_PARAM"),
    ):
        assert call(bob.url, "GET", _PAGES + query, token=bob.token).errcode == errcode, query


def test_msc4306_push_rules_count_subscribed_threads_only(alice: Person, bob: Person) -> None:
    room = _room(alice, bob)
    carol = register_third(alice, bob, room)
    root, wanted = _say(alice, room, "one"), _say(alice, room, "two")
    postcontent = bob.ask("GET", "/pushrules/")["global"]["postcontent"]
    assert [rule["rule_id"] for rule in postcontent] == [
        ".io.element.msc4306.rule.unsubscribed_thread",
        ".io.element.msc4306.rule.subscribed_thread",
    ]
    filter_ = quote('{"room":{"timeline":{"unread_thread_notifications":true}}}')

    def counts(person: Person) -> tuple[int, dict[str, Any]]:
        joined = person.ask("GET", f"/sync?filter={filter_}")["rooms"]["join"][room]
        main: int = joined["unread_notifications"]["notification_count"]
        return main, joined.get("unread_thread_notifications", {})

    _say(alice, room, "before", wanted)  # the persister learns of the thread
    _subscription(bob, "PUT", room, wanted, {})
    said = itertools.count()

    def heard() -> bool:
        _say(alice, room, f"in wanted {next(said)}", wanted)
        return wanted in counts(bob)[1]

    wait_until(heard)
    # Without a subscription only mentions in the thread count. The main timeline counts as usual.
    _say(alice, room, "in the other", root)
    _say(alice, room, "you!", root, **{"m.mentions": {"user_ids": [bob.user_id]}})
    _say(alice, room, "main")
    told = wait_until(lambda: (found := counts(bob))[1].get(root) and found[0] == 3 and found)
    assert told[1][root] == {"notification_count": 1, "highlight_count": 1}
    before = told[1][wanted]["notification_count"]
    assert counts(carol) == (3, {})
    # After the user unsubscribes, nothing more is counted.
    _subscription(bob, "DELETE", room, wanted)

    def quiet() -> bool:
        nonlocal before
        _say(alice, room, f"quiet {next(said)}", wanted)
        now = counts(bob)[1][wanted]["notification_count"]
        same, before = now == before, now
        return bool(same)

    wait_until(quiet)


def test_msc3874_messages_are_filtered_by_relation_type(alice: Person, bob: Person) -> None:
    room = _room(alice, bob)
    root = _say(alice, room, "A")
    _say(alice, room, "B")
    _say(alice, room, "C", root)
    edit = {"m.new_content": {"body": "A2", "msgtype": "m.text"}}
    edit |= {"m.relates_to": {"rel_type": "m.replace", "event_id": root}}
    alice.send(room, "edit", {"body": "* A2", "msgtype": "m.text", **edit})

    def page(**filter_: list[str]) -> list[str]:
        prefixed = {f"org.matrix.msc3874.{name}": value for name, value in filter_.items()}
        text = quote(json.dumps({"types": ["m.room.message"], **prefixed}))
        chunk = bob.ask("GET", f"/rooms/{quote(room)}/messages?dir=f&filter={text}")["chunk"]
        return [event["content"]["body"] for event in chunk]

    assert page() == ["A2", "B", "C", "* A2"] or page() == ["A", "B", "C", "* A2"]
    assert [text[0] for text in page(not_rel_types=["m.thread"])] == ["A", "B", "*"]
    assert page(rel_types=["m.thread"]) == ["C"]
    assert page(rel_types=["m.thread", "m.replace"], not_rel_types=["m.replace"]) == ["C"], "not_rel_types is stronger"
    assert page(rel_types=[]) == []
    wrong = quote('{"org.matrix.msc3874.rel_types":"m.thread"}')
    assert bob.call("GET", f"/rooms/{quote(room)}/messages?dir=f&filter={wrong}").errcode == "M_BAD_JSON"
    assert call(bob.url, "GET", "/_matrix/client/versions").json()["unstable_features"]["org.matrix.msc3874"] is True


def register_third(alice: Person, bob: Person, room: str) -> Person:
    """Return a third member of the room: with two, every message notifies as in a direct chat."""
    body = {"username": f"carol{next(_names)}", "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
    made = call(alice.url, "POST", "/_matrix/client/v3/register", body=body).json()
    carol = Person(alice.url, made["user_id"], body["password"], made["device_id"], made["access_token"])  # type: ignore[arg-type]
    carol.ask("POST", f"/rooms/{quote(room)}/join", {})
    return carol
