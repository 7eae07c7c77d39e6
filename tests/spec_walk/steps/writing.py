"""Steps for the group room-write: rooms, messages, state, redactions, reports, upgrades."""

from tests.spec_walk.walker import Walker


def creating_rooms(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    server = alice.user_id.partition(":")[2]
    name = alice.user_id[1:].partition(":")[0]
    body = {
        "preset": "public_chat",
        "name": "Hive",
        "topic": "honey",
        "room_alias_name": name,
        "visibility": "public",
        "invite": [bob.user_id],
        "room_version": "11",
        "creation_content": {"m.federate": False},
        "power_level_content_override": {"events_default": 5},
        "initial_state": [{"type": "org.example.queen", "state_key": "q", "content": {"age": 2}}],
    }
    room = walk.ok(alice, "createRoom", body=body)["room_id"]
    state = {(event["type"], event["state_key"]): event for event in walk.ok(alice, "getRoomState", roomId=room)}
    create = state["m.room.create", ""]["content"]
    assert (create["room_version"], create["m.federate"]) == ("11", False)
    assert state["m.room.name", ""]["content"] == {"name": "Hive"}
    assert state["m.room.topic", ""]["content"]["topic"] == "honey"
    assert state["m.room.canonical_alias", ""]["content"]["alias"] == f"#{name}:{server}"
    assert state["m.room.power_levels", ""]["content"]["events_default"] == 5
    assert state["m.room.join_rules", ""]["content"]["join_rule"] == "public"
    assert state["org.example.queen", "q"]["content"] == {"age": 2}
    assert state["m.room.member", bob.user_id]["content"]["membership"] == "invite"
    walk.refused(alice, "createRoom", 400, "M_ROOM_IN_USE", body={"room_alias_name": name})
    walk.refused(alice, "createRoom", 400, "M_UNSUPPORTED_ROOM_VERSION", body={"room_version": "rolling"})
    levels = {"type": "m.room.power_levels", "content": {"users": {"nobody": 3}}}
    walk.refused(alice, "createRoom", 400, "M_INVALID_ROOM_STATE", body={"initial_state": [levels]})


def sending_and_redacting(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    content = {"msgtype": "m.text", "body": "hello"}
    sent = walk.ok(alice, "sendMessage", roomId=room, eventType="m.room.message", txnId="1", body=content)["event_id"]
    again = walk.ok(alice, "sendMessage", roomId=room, eventType="m.room.message", txnId="1", body=content)["event_id"]
    assert again == sent
    event = walk.ok(alice, "getOneRoomEvent", roomId=room, eventId=sent)
    assert event["content"] == content and event["unsigned"]["transaction_id"] == "1"
    walk.refused(
        bob, "sendMessage", 403, "M_FORBIDDEN", roomId=room, eventType="m.room.message", txnId="1", body=content
    )
    large = {"msgtype": "m.text", "body": "x" * 66_000}
    place = {"roomId": room, "eventType": "m.room.message", "txnId": "2"}
    walk.refused(alice, "sendMessage", 413, "M_TOO_LARGE", body=large, **place)
    walk.refused(alice, "sendMessage", 400, "M_BAD_JSON", roomId=room, eventType="m.room.message", txnId="3", body=[1])
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    walk.refused(bob, "redactEvent", 403, "M_FORBIDDEN", roomId=room, eventId=sent, txnId="1", body={})
    redaction = walk.ok(alice, "redactEvent", roomId=room, eventId=sent, txnId="4", body={"reason": "typo"})["event_id"]
    event = walk.ok(alice, "getOneRoomEvent", roomId=room, eventId=sent)
    assert event["content"] == {}
    because = event["unsigned"]["redacted_because"]
    assert (because["event_id"], because["content"]["reason"]) == (redaction, "typo")


def writing_state(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    topic = {"roomId": room, "eventType": "m.room.topic", "stateKey": ""}
    first = walk.ok(alice, "setRoomStateWithKey", body={"topic": "one"}, **topic)["event_id"]
    assert walk.ok(alice, "setRoomStateWithKey", body={"topic": "one"}, **topic)["event_id"] == first
    second = walk.ok(alice, "setRoomStateWithKey", body={"topic": "two"}, **topic)["event_id"]
    assert walk.ok(bob, "getRoomStateWithKey", **topic)["topic"] == "two"
    whole = walk.ok(bob, "getRoomStateWithKey", query={"format": "event"}, **topic)
    assert whole["event_id"] == second and whole["unsigned"]["replaces_state"] == first
    walk.refused(bob, "setRoomStateWithKey", 403, "M_FORBIDDEN", body={"topic": "mine"}, **topic)
    alias = {"roomId": room, "eventType": "m.room.canonical_alias", "stateKey": ""}
    walk.refused(alice, "setRoomStateWithKey", 400, "M_BAD_ALIAS", body={"alias": "#no-such:example.org"}, **alias)
    walk.refused(alice, "setRoomStateWithKey", 400, "M_INVALID_PARAM", body={"alias": "nonsense"}, **alias)


def reporting(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    event = walk.ok(
        alice,
        "sendMessage",
        roomId=room,
        eventType="m.room.message",
        txnId="1",
        body={"msgtype": "m.text", "body": "spam"},
    )["event_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    assert walk.ok(bob, "reportEvent", roomId=room, eventId=event, body={"reason": "spam", "score": -100}) == {}
    assert walk.ok(bob, "reportRoom", roomId=room, body={"reason": "noise"}) == {}
    assert walk.ok(bob, "reportUser", userId=alice.user_id, body={"reason": "rude"}) == {}
    walk.refused(bob, "reportEvent", 404, "M_NOT_FOUND", roomId=room, eventId="$nothing", body={})
    server = alice.user_id.partition(":")[2]
    assert walk.ok(bob, "reportRoom", roomId=f"!nothing:{server}", body={"reason": ""}) == {}
    assert walk.ok(bob, "reportUser", userId=f"@nobody-at-all:{server}", body={"reason": ""}) == {}


def upgrading(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    body = {"preset": "public_chat", "room_version": "10", "name": "Old"}
    room = walk.ok(alice, "createRoom", body=body)["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    walk.refused(bob, "upgradeRoom", 403, "M_FORBIDDEN", roomId=room, body={"new_version": "11"})
    walk.refused(alice, "upgradeRoom", 400, "M_UNSUPPORTED_ROOM_VERSION", roomId=room, body={"new_version": "no"})
    new = walk.ok(alice, "upgradeRoom", roomId=room, body={"new_version": "12"})["replacement_room"]
    stone = walk.ok(bob, "getRoomStateWithKey", roomId=room, eventType="m.room.tombstone", stateKey="")
    assert stone["replacement_room"] == new
    create = walk.ok(alice, "getRoomStateWithKey", roomId=new, eventType="m.room.create", stateKey="")
    assert create["predecessor"]["room_id"] == room and create["room_version"] == "12"
    name = walk.ok(alice, "getRoomStateWithKey", roomId=new, eventType="m.room.name", stateKey="")
    assert name["name"] == "Old"
    levels = walk.ok(alice, "getRoomStateWithKey", roomId=new, eventType="m.room.power_levels", stateKey="")
    assert alice.user_id not in levels.get("users", {})


STEPS = (creating_rooms, sending_and_redacting, writing_state, reporting, upgrading)
