"""The user directory of a fleet: the background job indexes what client_api and the persisters write."""

import time

from tests.fix_fleet import RunningFleet
from tests.fleet.people import Person, register


def _found(who: Person, term: str) -> list[str]:
    body = who.ask("POST", "/user_directory/search", {"search_term": term})
    return [user["user_id"] for user in body["results"]]


def test_new_display_name_is_found_soon(fleet: RunningFleet) -> None:
    seeker, hidden = register(fleet, "directory-seeker"), register(fleet, "directory-hidden")
    profile = f"/profile/{hidden.user_id.replace('@', '%40').replace(':', '%3A')}/displayname"
    hidden.ask("PUT", profile, {"displayname": "Żółw 東京"})
    assert _found(seeker, "zo") == []
    room_id = hidden.create_room(preset="private_chat", invite=[seeker.user_id])
    seeker.ask("POST", f"/rooms/{room_id}/join", {})
    end = time.monotonic() + 20
    for term in ("zołw", "東京", "@directory-hid"):
        while _found(seeker, term) != [hidden.user_id]:
            assert time.monotonic() < end, term
            time.sleep(0.1)
    seeker.ask("POST", f"/rooms/{room_id}/leave", {})
    assert _found(seeker, "東京") == []
