"""Searches of a fleet: a user or message is found by the first search after the answer to the request that made it.

Background jobs store the words later, so a search that waited for them would find nothing yet.
"""

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register


def _users(who: Person, term: str) -> list[str]:
    body = who.ask("POST", "/user_directory/search", {"search_term": term})
    return [user["user_id"] for user in body["results"]]


def _texts(who: Person, term: str) -> list[str]:
    body = who.ask("POST", "/search", {"search_categories": {"room_events": {"search_term": term}}})
    return [each["result"]["content"]["body"] for each in body["search_categories"]["room_events"]["results"]]


def test_new_display_name_is_found_by_the_first_search(fleet: RunningFleet) -> None:
    seeker, hidden = register(fleet, "directory-seeker"), register(fleet, "directory-hidden")
    profile = f"/profile/{hidden.user_id.replace('@', '%40').replace(':', '%3A')}/displayname"
    room_id = hidden.create_room(preset="private_chat", invite=[seeker.user_id])
    assert _users(seeker, "directory-hid") == []
    seeker.ask("POST", f"/rooms/{room_id}/join", {})
    assert _users(seeker, "directory-hid") == [hidden.user_id]
    for number in range(5):
        hidden.ask("PUT", profile, {"displayname": f"Żółw 東京 n{number}"})
        assert _users(seeker, f"zołw n{number}") == [hidden.user_id]
        assert number == 0 or _users(seeker, f"東京 n{number - 1}") == []
    seeker.ask("POST", f"/rooms/{room_id}/leave", {})
    assert _users(seeker, "東京") == []


def test_new_message_is_found_by_the_first_search(fleet: RunningFleet) -> None:
    seeker, sender = register(fleet, "message-seeker"), register(fleet, "message-sender")
    room_id = sender.create_room(preset="public_chat")
    seeker.ask("POST", f"/rooms/{room_id}/join", {})
    for number in range(5):
        text = f"searchable number{number}"
        sender.ask("PUT", f"/rooms/{room_id}/send/m.room.message/s{number}", {"msgtype": "m.text", "body": text})
        assert _texts(seeker, f"number{number}") == _texts(sender, f"number{number}") == [text]
