"""Steps for the groups room-read, threads/relations, spaces and search."""

import json
import time

from tests.fleet.people import Person
from tests.spec_walk.walker import Walker


def say(walk: Walker, who: Person, room: str, text: str, **more: object) -> str:
    """Send a message; return its event id."""
    content = {"msgtype": "m.text", "body": text, **more}
    event_id: str = walk.ok(
        who, "sendMessage", roomId=room, eventType="m.room.message", txnId=f"{text}-{time.monotonic_ns()}", body=content
    )["event_id"]
    return event_id


def pages_and_places(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    sent = [say(walk, alice, room, str(number)) for number in range(5)]
    page = walk.ok(alice, "getRoomEvents", roomId=room, query={"dir": "b", "limit": 2})
    assert [event["event_id"] for event in page["chunk"]] == [sent[4], sent[3]]
    older = walk.ok(alice, "getRoomEvents", roomId=room, query={"dir": "b", "limit": 2, "from": page["end"]})
    assert [event["event_id"] for event in older["chunk"]] == [sent[2], sent[1]]
    walk.refused(bob, "getRoomEvents", 403, "M_FORBIDDEN", roomId=room, query={"dir": "b"})
    walk.refused(alice, "getRoomEvents", 400, "M_INVALID_PARAM", roomId=room, query={"dir": "x"})
    around = walk.ok(alice, "getEventContext", roomId=room, eventId=sent[2], query={"limit": 2})
    assert around["event"]["event_id"] == sent[2]
    assert [event["event_id"] for event in (*around["events_before"], *around["events_after"])] == [sent[1], sent[3]]
    assert any(event["type"] == "m.room.create" for event in around["state"])
    walk.refused(alice, "getEventContext", 404, "M_NOT_FOUND", roomId=room, eventId="$nothing")
    event = walk.ok(alice, "getOneRoomEvent", roomId=room, eventId=sent[0])
    assert event["room_id"] == room and event["content"]["body"] == "0"
    assert walk.ok(alice, "getOneEvent", eventId=sent[0])["content"] == event["content"]
    walk.refused(bob, "getOneEvent", 404, "M_NOT_FOUND", eventId=sent[0])
    walk.refused(bob, "getOneRoomEvent", 404, "M_NOT_FOUND", roomId=room, eventId=sent[0])
    query = {"ts": event["origin_server_ts"], "dir": "f"}
    found = walk.ok(alice, "getEventByTimestamp", roomId=room, query=query)
    assert found["origin_server_ts"] >= event["origin_server_ts"]
    walk.refused(
        alice, "getEventByTimestamp", 404, "M_NOT_FOUND", roomId=room, query={"ts": 32_503_680_000_000, "dir": "f"}
    )


def members_and_state(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(alice, "setProfileField", userId=alice.user_id, keyName="displayname", body={"displayname": "Alice"})
    before = walk.ok(alice, "sync")["rooms"]["join"][room]["timeline"]["prev_batch"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    walk.ok(bob, "leaveRoom", roomId=room, body={})
    chunk = walk.ok(alice, "getMembersByRoom", roomId=room, query={"membership": "join"})["chunk"]
    assert [event["state_key"] for event in chunk] == [alice.user_id]
    chunk = walk.ok(alice, "getMembersByRoom", roomId=room, query={"not_membership": "join"})["chunk"]
    assert [(event["state_key"], event["content"]["membership"]) for event in chunk] == [(bob.user_id, "leave")]
    assert isinstance(walk.ok(alice, "getMembersByRoom", roomId=room, query={"at": before})["chunk"], list)
    joined = walk.ok(alice, "getJoinedMembersByRoom", roomId=room)["joined"]
    assert list(joined) == [alice.user_id] and joined[alice.user_id]["display_name"] == "Alice"
    for name in ("getMembersByRoom", "getJoinedMembersByRoom", "getRoomState"):
        walk.refused(carol, name, 403, "M_FORBIDDEN", roomId=room)
    create = {"roomId": room, "eventType": "m.room.create", "stateKey": ""}
    walk.refused(carol, "getRoomStateWithKey", 403, "M_FORBIDDEN", **create)
    walk.refused(alice, "getRoomStateWithKey", 404, "M_NOT_FOUND", **{**create, "eventType": "m.room.nothing"})
    assert {event["type"] for event in walk.ok(alice, "getRoomState", roomId=room)} >= {
        "m.room.create",
        "m.room.member",
    }


def summaries_and_hierarchies(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    server = alice.user_id.partition(":")[2]
    space = walk.ok(
        alice, "createRoom", body={"preset": "public_chat", "name": "Space", "creation_content": {"type": "m.space"}}
    )["room_id"]
    child = walk.ok(alice, "createRoom", body={"preset": "public_chat", "name": "Child", "topic": "small"})["room_id"]
    link = {"roomId": space, "eventType": "m.space.child", "stateKey": child}
    walk.ok(alice, "setRoomStateWithKey", body={"via": [server], "suggested": True}, **link)
    summary = walk.ok(bob, "getRoomSummary", roomIdOrAlias=child, query={"via": server})
    assert (summary["room_id"], summary["name"], summary["topic"]) == (child, "Child", "small")
    assert (summary["num_joined_members"], summary["join_rule"]) == (1, "public")
    walk.refused(bob, "getRoomSummary", 404, "M_NOT_FOUND", roomIdOrAlias=f"!nothing:{server}")
    rooms = walk.ok(bob, "getSpaceHierarchy", roomId=space, query={"suggested_only": "true", "max_depth": 2})["rooms"]
    assert [(room["room_id"], room["name"]) for room in rooms] == [(space, "Space"), (child, "Child")]
    assert rooms[0]["children_state"][0]["content"]["suggested"] is True
    page = walk.ok(bob, "getSpaceHierarchy", roomId=space, query={"limit": 1})
    rest = walk.ok(bob, "getSpaceHierarchy", roomId=space, query={"limit": 1, "from": page["next_batch"]})
    assert [room["room_id"] for room in (*page["rooms"], *rest["rooms"])] == [space, child]
    walk.refused(bob, "getSpaceHierarchy", 400, "M_INVALID_PARAM", roomId=space, query={"from": "nonsense"})
    private = walk.ok(alice, "createRoom", body={"preset": "private_chat"})["room_id"]
    walk.refused(bob, "getSpaceHierarchy", 403, "M_FORBIDDEN", roomId=private)


def relations_and_threads(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    root = say(walk, alice, room, "root")
    in_thread = {"rel_type": "m.thread", "event_id": root}
    replies = [say(walk, alice, room, text, **{"m.relates_to": in_thread}) for text in ("one", "two")]
    liked = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+1"}}
    sent = walk.ok(alice, "sendMessage", roomId=room, eventType="m.reaction", txnId="r", body=liked)
    reaction = sent["event_id"]
    place = {"roomId": room, "eventId": root}
    chunk = walk.ok(alice, "getRelatingEvents", **place)["chunk"]
    assert [event["event_id"] for event in chunk] == [reaction, replies[1], replies[0]]
    page = walk.ok(alice, "getRelatingEventsWithRelType", relType="m.thread", query={"limit": 1}, **place)
    assert [event["event_id"] for event in page["chunk"]] == [replies[1]]
    query = {"limit": 1, "from": page["next_batch"]}
    page = walk.ok(alice, "getRelatingEventsWithRelType", relType="m.thread", query=query, **place)
    assert [event["event_id"] for event in page["chunk"]] == [replies[0]]
    typed = {"relType": "m.annotation", "eventType": "m.reaction", **place}
    chunk = walk.ok(alice, "getRelatingEventsWithRelTypeAndEventType", **typed)["chunk"]
    assert [event["event_id"] for event in chunk] == [reaction]
    nothing = {"roomId": room, "eventId": "$nothing"}
    walk.refused(alice, "getRelatingEvents", 404, "M_NOT_FOUND", **nothing)
    walk.refused(alice, "getRelatingEventsWithRelType", 404, "M_NOT_FOUND", relType="m.thread", **nothing)
    typed = {"relType": "m.annotation", "eventType": "m.reaction", **nothing}
    walk.refused(alice, "getRelatingEventsWithRelTypeAndEventType", 404, "M_NOT_FOUND", **typed)
    threads = walk.ok(alice, "getThreadRoots", roomId=room, query={"include": "participated", "limit": 5})["chunk"]
    assert [event["event_id"] for event in threads] == [root]
    bundle = threads[0]["unsigned"]["m.relations"]["m.thread"]
    assert (bundle["count"], bundle["latest_event"]["event_id"]) == (2, replies[1])
    assert bundle["current_user_participated"] is True
    walk.refused(alice, "getThreadRoots", 400, "M_INVALID_PARAM", roomId=room, query={"from": "nonsense"})
    walk.refused(bob, "getThreadRoots", 403, "M_FORBIDDEN", roomId=room)


def searching(walk: Walker) -> None:
    alice = walk.person("alice")
    room = walk.ok(alice, "createRoom", body={"preset": "private_chat"})["room_id"]
    wanted = say(walk, alice, room, "heliotrope meadows")
    say(walk, alice, room, "something else")
    body = {
        "search_categories": {
            "room_events": {
                "search_term": "heliotrope",
                "keys": ["content.body"],
                "order_by": "recent",
                "include_state": True,
                "event_context": {"before_limit": 1, "after_limit": 1, "include_profile": True},
                "groupings": {"group_by": [{"key": "room_id"}]},
            }
        }
    }
    end = time.monotonic() + 10  # a background job fills the index a little later
    while (found := walk.ok(alice, "search", body=body)["search_categories"]["room_events"])["count"] == 0:
        assert time.monotonic() < end, found
        time.sleep(0.1)
    assert [result["result"]["event_id"] for result in found["results"]] == [wanted]
    assert found["results"][0]["context"]["events_after"][0]["content"]["body"] == "something else"
    assert found["groups"]["room_id"][room]["results"] == [wanted]
    assert "heliotrope" in found["highlights"] and room in found["state"]
    walk.refused(alice, "search", 400, "M_BAD_JSON", body={"search_categories": {"room_events": {"search_term": 5}}})


def old_initial_syncs(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat", "name": "Old"})["room_id"]
    event = say(walk, alice, room, "first")
    one = walk.ok(alice, "roomInitialSync", roomId=room)
    assert (one["room_id"], one["membership"]) == (room, "join")
    assert event in [each["event_id"] for each in one["messages"]["chunk"]]
    assert any(each["type"] == "m.room.name" for each in one["state"])
    walk.refused(bob, "roomInitialSync", 403, "M_FORBIDDEN", roomId=room)
    everything = walk.ok(alice, "initialSync", query={"limit": 3})
    assert [each["room_id"] for each in everything["rooms"]] == [room]
    since = everything["end"]
    assert since.startswith("s") or since
    later = say(walk, alice, room, "second")
    chunk = walk.ok(alice, "getEvents", query={"from": since, "timeout": 1000})["chunk"]
    assert later in [each.get("event_id") for each in chunk]
    walk.refused(alice, "getEvents", 400, "M_INVALID_PARAM", query={"from": "nonsense"})
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    body = {"preset": "public_chat", "initial_state": [visibility]}
    open_room = walk.ok(alice, "createRoom", body=body)["room_id"]
    since = walk.ok(bob, "initialSync")["end"]
    seen = say(walk, alice, open_room, "to all the world")
    peeked = walk.ok(bob, "peekEvents", query={"from": since, "timeout": 1000, "room_id": open_room})["chunk"]
    assert seen in [each.get("event_id") for each in peeked]
    walk.refused(bob, "peekEvents", 400, "M_INVALID_PARAM", query={"from": "nonsense", "room_id": open_room})


def filters(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    wanted = {"room": {"timeline": {"limit": 1, "types": ["m.room.message"]}}}
    number = walk.ok(alice, "defineFilter", userId=alice.user_id, body=wanted)["filter_id"]
    assert walk.ok(alice, "getFilter", userId=alice.user_id, filterId=number)["room"]["timeline"]["limit"] == 1
    room = walk.ok(alice, "createRoom", body={})["room_id"]
    say(walk, alice, room, "one")
    last = say(walk, alice, room, "two")
    timeline = walk.ok(alice, "sync", query={"filter": number})["rooms"]["join"][room]["timeline"]
    assert [event["event_id"] for event in timeline["events"]] == [last] and timeline["limited"] is True
    inline = walk.ok(alice, "sync", query={"filter": json.dumps(wanted)})["rooms"]["join"][room]["timeline"]
    assert [event["event_id"] for event in inline["events"]] == [last]
    walk.refused(alice, "getFilter", 404, "M_NOT_FOUND", userId=alice.user_id, filterId="999999")
    walk.refused(bob, "getFilter", 403, "M_FORBIDDEN", userId=alice.user_id, filterId=number)
    walk.refused(bob, "defineFilter", 403, "M_FORBIDDEN", userId=alice.user_id, body=wanted)


STEPS = (
    pages_and_places,
    members_and_state,
    summaries_and_hierarchies,
    relations_and_threads,
    searching,
    old_initial_syncs,
    filters,
)
