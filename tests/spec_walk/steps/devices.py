"""Steps for the groups device, keys, to-device and sync."""

from typing import Any

from tests.fleet.people import Person
from tests.spec_walk.steps.reading import say
from tests.spec_walk.walker import Walker

_ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def _device_keys(who: Person) -> dict[str, Any]:
    return {
        "user_id": who.user_id,
        "device_id": who.device_id,
        "algorithms": _ALGORITHMS,
        "keys": {f"curve25519:{who.device_id}": "c" * 43, f"ed25519:{who.device_id}": "e" * 43},
        "signatures": {who.user_id: {f"ed25519:{who.device_id}": "s" * 86}},
    }


def _one_time_key(who: Person, key: str) -> dict[str, Any]:
    return {"key": key, "signatures": {who.user_id: {f"ed25519:{who.device_id}": "s" * 86}}}


def devices(walk: Walker) -> None:
    alice = walk.person("alice")
    assert [each["device_id"] for each in walk.ok(alice, "getDevices")["devices"]] == [alice.device_id]
    assert walk.ok(alice, "updateDevice", deviceId=alice.device_id, body={"display_name": "Hive"}) == {}
    assert walk.ok(alice, "getDevice", deviceId=alice.device_id)["display_name"] == "Hive"
    walk.refused(alice, "getDevice", 404, "M_NOT_FOUND", deviceId="NOTHING")
    walk.refused(alice, "updateDevice", 404, "M_NOT_FOUND", deviceId="NOTHING", body={})
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": alice.password,
    }
    others = [alice.ask("POST", "/login", login)["device_id"] for _ in range(2)]
    asked = walk.refused(alice, "deleteDevice", 401, "", deviceId=others[0], body={})
    walk.ok(alice, "deleteDevice", deviceId=others[0], body={"auth": {**login, "session": asked["session"]}})
    asked = walk.refused(alice, "deleteDevices", 401, "", body={"devices": [others[1]]})
    walk.ok(alice, "deleteDevices", body={"devices": [others[1]], "auth": {**login, "session": asked["session"]}})
    assert [each["device_id"] for each in walk.ok(alice, "getDevices")["devices"]] == [alice.device_id]


def keys(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    before = walk.ok(bob, "sync")["next_batch"]
    body = {
        "device_keys": _device_keys(alice),
        "one_time_keys": {"signed_curve25519:A": _one_time_key(alice, "o" * 43)},
        "fallback_keys": {"signed_curve25519:F": {**_one_time_key(alice, "f" * 43), "fallback": True}},
    }
    assert walk.ok(alice, "uploadKeys", body=body)["one_time_key_counts"] == {"signed_curve25519": 1}
    found = walk.ok(bob, "queryKeys", body={"device_keys": {alice.user_id: []}})["device_keys"][alice.user_id]
    assert found[alice.device_id]["keys"] == body["device_keys"]["keys"]
    asked = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    claimed = [walk.ok(bob, "claimKeys", body=asked)["one_time_keys"] for _ in range(2)]
    names = [list(each[alice.user_id][alice.device_id]) for each in claimed]
    assert names == [["signed_curve25519:A"], ["signed_curve25519:F"]]
    after = walk.ok(bob, "sync", query={"since": before})
    assert alice.user_id in after["device_lists"]["changed"]
    changes = walk.ok(bob, "getKeysChanges", query={"from": before, "to": after["next_batch"]})
    assert alice.user_id in changes["changed"]
    walk.refused(bob, "getKeysChanges", 400, "M_INVALID_PARAM", query={"from": "nonsense", "to": after["next_batch"]})
    walk.refused(alice, "uploadKeys", 400, "M_INVALID_PARAM", body={"device_keys": _device_keys(bob)})


def messages_to_devices(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    since = walk.ok(bob, "sync")["next_batch"]
    body = {"messages": {bob.user_id: {"*": {"n": 1}}}}
    for _ in range(2):  # the same transaction: one message
        assert walk.ok(alice, "sendToDevice", eventType="org.example.ping", txnId="1", body=body) == {}
    answer = walk.ok(bob, "sync", query={"since": since, "timeout": 2000})
    assert answer["to_device"]["events"] == [{"type": "org.example.ping", "sender": alice.user_id, "content": {"n": 1}}]
    walk.refused(alice, "sendToDevice", 400, "M_BAD_JSON", eventType="a.b", txnId="2", body={"messages": 5})


def syncing(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat", "name": "Sync"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    first = walk.ok(bob, "sync", query={"set_presence": "offline"})
    section = first["rooms"]["join"][room]
    assert section["summary"]["m.joined_member_count"] == 2
    event = say(walk, alice, room, "news", **{"m.mentions": {"user_ids": [bob.user_id]}})
    answer = walk.ok(bob, "sync", query={"since": first["next_batch"], "timeout": 5000})
    section = answer["rooms"]["join"][room]
    assert [each["event_id"] for each in section["timeline"]["events"]] == [event]
    assert section["unread_notifications"] == {"notification_count": 1, "highlight_count": 1}
    after = walk.ok(bob, "sync", query={"since": first["next_batch"], "use_state_after": "true"})["rooms"]["join"][room]
    assert "state" not in after and after["state_after"]["events"] == []
    full = walk.ok(bob, "sync", query={"since": answer["next_batch"], "full_state": "true"})["rooms"]["join"][room]
    assert any(each["type"] == "m.room.name" for each in full["state"]["events"])
    walk.refused(bob, "sync", 400, "M_INVALID_PARAM", query={"since": "nonsense"})
    walk.refused(None, "sync", 401, "M_MISSING_TOKEN")


STEPS = (devices, keys, messages_to_devices, syncing)
