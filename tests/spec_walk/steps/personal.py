"""Steps for the groups account-data (with tags), profile, presence, directory, typing/receipts and push."""

import time
from typing import Any

from tests.spec_walk.steps.reading import say
from tests.spec_walk.walker import Walker


def account_data(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={})["room_id"]
    place: dict[str, Any] = {"userId": alice.user_id, "type": "org.example.colour"}
    assert walk.ok(alice, "setAccountData", body={"colour": "amber"}, **place) == {}
    assert walk.ok(alice, "getAccountData", **place) == {"colour": "amber"}
    whole = walk.ok(alice, "sync")
    assert {"type": "org.example.colour", "content": {"colour": "amber"}} in whole["account_data"]["events"]
    walk.refused(alice, "getAccountData", 404, "M_NOT_FOUND", **{**place, "type": "org.example.nothing"})
    walk.refused(bob, "getAccountData", 403, "M_FORBIDDEN", **place)
    walk.refused(bob, "setAccountData", 403, "M_FORBIDDEN", body={}, **place)
    walk.refused(alice, "setAccountData", 400, "M_BAD_JSON", body=["no object"], **place)
    for kind in ("m.fully_read", "m.push_rules"):
        walk.refused(alice, "setAccountData", 405, "M_BAD_JSON", body={}, **{**place, "type": kind})
    here: dict[str, Any] = {**place, "roomId": room}
    assert walk.ok(alice, "setAccountDataPerRoom", body={"colour": "gold"}, **here) == {}
    assert walk.ok(alice, "getAccountDataPerRoom", **here) == {"colour": "gold"}
    walk.refused(alice, "getAccountDataPerRoom", 404, "M_NOT_FOUND", **{**here, "type": "org.example.nothing"})
    walk.refused(bob, "getAccountDataPerRoom", 403, "M_FORBIDDEN", **here)
    walk.refused(bob, "setAccountDataPerRoom", 403, "M_FORBIDDEN", body={}, **here)
    walk.refused(alice, "setAccountDataPerRoom", 400, "M_INVALID_PARAM", body={}, **{**here, "roomId": "nowhere"})
    walk.refused(alice, "getAccountDataPerRoom", 400, "M_INVALID_PARAM", **{**here, "roomId": "nowhere"})
    walk.refused(alice, "setAccountDataPerRoom", 405, "M_BAD_JSON", body={}, **{**here, "type": "m.fully_read"})


def tags(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={})["room_id"]
    place: dict[str, Any] = {"userId": alice.user_id, "roomId": room}
    assert walk.ok(alice, "setRoomTag", tag="m.favourite", body={"order": 0.25}, **place) == {}
    walk.ok(alice, "setRoomTag", tag="u.bees", body={}, **place)
    assert walk.ok(alice, "getRoomTags", **place) == {"tags": {"m.favourite": {"order": 0.25}, "u.bees": {}}}
    assert walk.ok(alice, "deleteRoomTag", tag="u.bees", **place) == {}
    told = walk.ok(alice, "sync")["rooms"]["join"][room]["account_data"]["events"]
    assert {"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.25}}}} in told
    walk.refused(bob, "getRoomTags", 403, "M_FORBIDDEN", **place)
    walk.refused(bob, "setRoomTag", 403, "M_FORBIDDEN", tag="u.x", body={}, **place)
    walk.refused(bob, "deleteRoomTag", 403, "M_FORBIDDEN", tag="u.x", **place)


def profiles(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    server = alice.user_id.partition(":")[2]
    here: dict[str, Any] = {"userId": alice.user_id}
    walk.ok(alice, "setProfileField", keyName="displayname", body={"displayname": "Alice B."}, **here)
    walk.ok(alice, "setProfileField", keyName="m.tz", body={"m.tz": "Europe/Zurich"}, **here)
    assert walk.ok(bob, "getProfileField", keyName="m.tz", **here) == {"m.tz": "Europe/Zurich"}
    profile = walk.ok(bob, "getUserProfile", **here)
    assert (profile["displayname"], profile["m.tz"]) == ("Alice B.", "Europe/Zurich")
    assert walk.ok(alice, "deleteProfileField", keyName="m.tz", **here) == {}
    walk.refused(bob, "getProfileField", 404, "M_NOT_FOUND", keyName="m.tz", **here)
    walk.refused(bob, "getUserProfile", 404, "M_NOT_FOUND", userId=f"@nobody-at-all:{server}")
    walk.refused(bob, "setProfileField", 403, "M_FORBIDDEN", keyName="m.tz", body={"m.tz": "UTC"}, **here)
    walk.refused(bob, "deleteProfileField", 403, "M_FORBIDDEN", keyName="m.tz", **here)
    walk.refused(alice, "setProfileField", 400, "M_MISSING_PARAM", keyName="m.tz", body={"other": 1}, **here)
    big = {"org.example.big": "x" * 70_000}
    walk.refused(alice, "setProfileField", 400, "M_PROFILE_TOO_LARGE", keyName="org.example.big", body=big, **here)
    walk.refused(alice, "setProfileField", 400, "M_KEY_TOO_LARGE", keyName="k" * 256, body={"k" * 256: 1}, **here)
    walk.refused(alice, "deleteProfileField", 400, "M_KEY_TOO_LARGE", keyName="k" * 256, **here)


def common_rooms(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    assert walk.ok(alice, "getMutualRooms", query={"user_id": bob.user_id})["joined"] == [room]
    walk.refused(alice, "getMutualRooms", 400, "M_INVALID_PARAM", query={"user_id": alice.user_id})
    walk.refused(alice, "getMutualRooms", 400, "M_INVALID_PARAM", query={"user_id": bob.user_id, "from": "nonsense"})


def presence(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    server = alice.user_id.partition(":")[2]
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    body = {"presence": "unavailable", "status_msg": "asleep"}
    assert walk.ok(alice, "setPresence", userId=alice.user_id, body=body) == {}
    told = walk.ok(bob, "getPresence", userId=alice.user_id)
    assert (told["presence"], told["status_msg"]) == ("unavailable", "asleep")
    end = time.monotonic() + 5
    while not any(
        event["sender"] == alice.user_id and event["content"].get("status_msg") == "asleep"
        for event in walk.ok(bob, "sync").get("presence", {}).get("events", ())
    ):
        assert time.monotonic() < end
    walk.refused(carol, "getPresence", 403, "M_FORBIDDEN", userId=alice.user_id)
    walk.refused(bob, "setPresence", 403, "M_FORBIDDEN", userId=alice.user_id, body=body)
    walk.refused(alice, "setPresence", 400, "M_BAD_JSON", userId=alice.user_id, body={"presence": 5})
    walk.refused(alice, "getPresence", 403, "M_FORBIDDEN", userId=f"@nobody-at-all:{server}")


def aliases(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    name, _, server = alice.user_id[1:].partition(":")
    alias = f"#aliases-{name}:{server}"
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    assert walk.ok(alice, "setRoomAlias", roomAlias=alias, body={"room_id": room}) == {}
    found = walk.ok(bob, "getRoomIdByAlias", roomAlias=alias)
    assert found["room_id"] == room and server in found["servers"]
    assert walk.ok(alice, "getLocalAliases", roomId=room) == {"aliases": [alias]}
    walk.refused(bob, "getLocalAliases", 403, "M_FORBIDDEN", roomId=room)
    walk.refused(alice, "getLocalAliases", 400, "M_INVALID_PARAM", roomId="nowhere")
    walk.refused(bob, "setRoomAlias", 403, "M_FORBIDDEN", roomAlias=f"#of-{name}:{server}", body={"room_id": room})
    walk.refused(alice, "setRoomAlias", 409, "M_UNKNOWN", roomAlias=alias, body={"room_id": room})
    walk.refused(alice, "setRoomAlias", 400, "M_INVALID_PARAM", roomAlias="nonsense", body={"room_id": room})
    walk.refused(bob, "getRoomIdByAlias", 400, "M_INVALID_PARAM", roomAlias="nonsense")
    walk.refused(bob, "deleteRoomAlias", 403, "M_FORBIDDEN", roomAlias=alias)
    canonical = {"roomId": room, "eventType": "m.room.canonical_alias", "stateKey": ""}
    walk.ok(alice, "setRoomStateWithKey", body={"alias": alias}, **canonical)
    assert walk.ok(alice, "deleteRoomAlias", roomAlias=alias) == {}
    assert walk.ok(alice, "getRoomStateWithKey", **canonical) == {}
    walk.refused(bob, "getRoomIdByAlias", 404, "M_NOT_FOUND", roomAlias=alias)
    walk.refused(alice, "deleteRoomAlias", 404, "M_NOT_FOUND", roomAlias=alias)


def room_directory(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    name, _, server = alice.user_id[1:].partition(":")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat", "name": f"Listed {name}"})["room_id"]
    assert walk.ok(bob, "getRoomVisibilityOnDirectory", roomId=room) == {"visibility": "private"}
    walk.refused(bob, "setRoomVisibilityOnDirectory", 403, "M_FORBIDDEN", roomId=room, body={"visibility": "public"})
    assert walk.ok(alice, "setRoomVisibilityOnDirectory", roomId=room, body={"visibility": "public"}) == {}
    assert walk.ok(bob, "getRoomVisibilityOnDirectory", roomId=room) == {"visibility": "public"}
    body = {"filter": {"generic_search_term": f"listed {name}", "room_types": [None]}, "limit": 10}
    found = walk.ok(bob, "queryPublicRooms", body=body)
    assert [(each["room_id"], each["num_joined_members"]) for each in found["chunk"]] == [(room, 1)]
    first = walk.ok(bob, "getPublicRooms", query={"limit": 1})
    assert len(first["chunk"]) == 1
    rooms, since = {first["chunk"][0]["room_id"]}, first.get("next_batch")
    while since is not None:
        page = walk.ok(bob, "getPublicRooms", query={"limit": 50, "since": since})
        rooms |= {each["room_id"] for each in page["chunk"]}
        since = page.get("next_batch")
    assert room in rooms
    nothing = f"!nothing:{server}"
    walk.refused(bob, "getRoomVisibilityOnDirectory", 404, "M_NOT_FOUND", roomId=nothing)
    walk.refused(bob, "setRoomVisibilityOnDirectory", 404, "M_NOT_FOUND", roomId=nothing, body={"visibility": "public"})


def user_directory(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    room = walk.ok(alice, "createRoom", body={"preset": "private_chat"})["room_id"]
    walk.ok(bob, "setProfileField", userId=bob.user_id, keyName="displayname", body={"displayname": "Melisandre"})
    walk.ok(alice, "inviteUser", roomId=room, body={"user_id": bob.user_id})
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    end = time.monotonic() + 10  # a background job fills it a little later
    while not (found := walk.ok(alice, "searchUserDirectory", body={"search_term": "melis", "limit": 5}))["results"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert [(each["user_id"], each["display_name"]) for each in found["results"]] == [(bob.user_id, "Melisandre")]
    assert found["limited"] is False
    assert walk.ok(carol, "searchUserDirectory", body={"search_term": "melis"})["results"] == []


def typing_and_receipts(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    event = say(walk, alice, room, "read me")
    since = walk.ok(alice, "sync")["next_batch"]
    assert walk.ok(bob, "setTyping", roomId=room, userId=bob.user_id, body={"typing": True, "timeout": 30_000}) == {}
    assert walk.ok(bob, "postReceipt", roomId=room, receiptType="m.read", eventId=event, body={}) == {}
    seen: dict[str, object] = {}
    end = time.monotonic() + 5
    while set(seen) < {"m.typing", "m.receipt"} and time.monotonic() < end:
        answer = walk.ok(alice, "sync", query={"since": since, "timeout": 1000})
        since = answer["next_batch"]
        for each in answer.get("rooms", {}).get("join", {}).get(room, {}).get("ephemeral", {}).get("events", ()):
            seen[each["type"]] = each["content"]
    assert seen["m.typing"] == {"user_ids": [bob.user_id]}
    assert list(seen["m.receipt"]) == [event] and bob.user_id in seen["m.receipt"][event]["m.read"]  # type: ignore[call-overload, index]
    walk.refused(alice, "setTyping", 403, "M_FORBIDDEN", roomId=room, userId=bob.user_id, body={"typing": True})
    here: dict[str, Any] = {"roomId": room, "eventId": event}
    walk.refused(bob, "postReceipt", 400, "M_INVALID_PARAM", receiptType="m.nothing", body={}, **here)
    walk.refused(bob, "postReceipt", 400, "M_INVALID_PARAM", receiptType="m.read", body={"thread_id": ""}, **here)
    marks = {"m.fully_read": event, "m.read.private": event}
    assert walk.ok(bob, "setReadMarker", roomId=room, body=marks) == {}
    here = {"userId": bob.user_id, "roomId": room, "type": "m.fully_read"}
    assert walk.ok(bob, "getAccountDataPerRoom", **here) == {"event_id": event}


def push_rules(walk: Walker) -> None:
    alice = walk.person("alice")
    rule: dict[str, Any] = {"kind": "content", "ruleId": "honey"}
    body = {"pattern": "honey", "actions": ["notify", {"set_tweak": "highlight"}]}
    assert walk.ok(alice, "setPushRule", body=body, **rule) == {}
    kept = walk.ok(alice, "getPushRule", **rule)
    assert (kept["pattern"], kept["actions"]) == ("honey", body["actions"])
    assert (kept["enabled"], kept["default"]) == (True, False)
    walk.ok(alice, "setPushRule", body=body, query={"before": "honey"}, **{**rule, "ruleId": "wax"})
    whole = walk.ok(alice, "getPushRules")
    assert [each["rule_id"] for each in whole["global"]["content"]][:2] == ["wax", "honey"]
    assert walk.ok(alice, "getPushRulesGlobal") == whole["global"]
    told = {event["type"]: event["content"] for event in walk.ok(alice, "sync")["account_data"]["events"]}
    assert told["m.push_rules"] == whole
    assert walk.ok(alice, "setPushRuleEnabled", body={"enabled": False}, **rule) == {}
    assert walk.ok(alice, "isPushRuleEnabled", **rule) == {"enabled": False}
    assert walk.ok(alice, "setPushRuleActions", body={"actions": []}, **rule) == {}
    assert walk.ok(alice, "getPushRuleActions", **rule) == {"actions": []}
    assert walk.ok(alice, "deletePushRule", **rule) == {}
    for name in ("getPushRule", "deletePushRule", "isPushRuleEnabled", "getPushRuleActions"):
        walk.refused(alice, name, 404, "M_NOT_FOUND", **rule)
    walk.refused(alice, "setPushRuleEnabled", 404, "M_NOT_FOUND", body={"enabled": True}, **rule)
    walk.refused(alice, "setPushRuleActions", 404, "M_NOT_FOUND", body={"actions": []}, **rule)
    walk.refused(alice, "setPushRule", 400, "M_UNKNOWN", body=body, query={"after": "no-such"}, **rule)
    walk.refused(alice, "setPushRule", 400, "M_INVALID_PARAM", body=body, **{**rule, "ruleId": ".mine"})


def notifications(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    plain = say(walk, alice, room, "all")
    loud = say(walk, alice, room, "you", **{"m.mentions": {"user_ids": [bob.user_id]}})
    page = walk.ok(bob, "getNotifications", query={"limit": 1})
    rest = walk.ok(bob, "getNotifications", query={"limit": 5, "from": page["next_token"]})
    told = [*page["notifications"], *rest["notifications"]]
    assert [each["event"]["event_id"] for each in told] == [loud, plain]
    assert all(each["room_id"] == room and each["read"] is False for each in told)
    only = walk.ok(bob, "getNotifications", query={"only": "highlight"})["notifications"]
    assert [each["event"]["event_id"] for each in only] == [loud]
    walk.ok(bob, "postReceipt", roomId=room, receiptType="m.read", eventId=loud, body={})
    end = time.monotonic() + 5
    while not all(each["read"] for each in walk.ok(bob, "getNotifications")["notifications"]):
        assert time.monotonic() < end


def third_party_invitations(walk: Walker) -> None:
    alice = walk.person("alice")
    room = walk.ok(alice, "createRoom", body={})["room_id"]
    body = {"id_server": "id.example.org", "id_access_token": "t", "medium": "email", "address": "a@example.org"}
    walk.refused(alice, "inviteBy3PID", 400, "M_SERVER_NOT_TRUSTED", roomId=room, body=body)


STEPS = (
    account_data,
    tags,
    profiles,
    common_rooms,
    presence,
    aliases,
    room_directory,
    user_directory,
    typing_and_receipts,
    push_rules,
    notifications,
    third_party_invitations,
)
