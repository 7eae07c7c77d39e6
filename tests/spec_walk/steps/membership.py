"""Steps for the group membership: join, invite, knock, leave, ban, forget."""

from tests.fleet.people import Person
from tests.spec_walk.walker import Walker


def member_of(walk: Walker, reader: Person, room_id: str, user_id: str) -> str:
    """Return the membership of a user from `/state`."""
    member = walk.ok(
        reader,
        "getRoomStateWithKey",
        roomId=room_id,
        eventType="m.room.member",
        stateKey=user_id,
    )
    membership: str = member["membership"]
    return membership


def joining_by_id_and_by_alias(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    name = alice.user_id[1:].partition(":")[0]
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat", "room_alias_name": f"joining-{name}"})["room_id"]
    assert walk.ok(bob, "joinRoomById", roomId=room, body={"reason": "to see"}) == {"room_id": room}
    member = walk.ok(alice, "getRoomStateWithKey", roomId=room, eventType="m.room.member", stateKey=bob.user_id)
    assert (member["membership"], member["reason"]) == ("join", "to see")
    server = alice.user_id.partition(":")[2]
    alias = f"#joining-{name}:{server}"
    assert walk.ok(carol, "joinRoom", roomIdOrAlias=alias, query={"via": server}, body={}) == {"room_id": room}
    assert walk.ok(carol, "getJoinedRooms") == {"joined_rooms": [room]}
    walk.refused(bob, "joinRoom", 404, "M_NOT_FOUND", roomIdOrAlias=f"#nothing-{name}:{server}", body={})
    private = walk.ok(alice, "createRoom", body={"preset": "private_chat"})["room_id"]
    walk.refused(bob, "joinRoomById", 403, "M_FORBIDDEN", roomId=private, body={})
    walk.refused(bob, "joinRoom", 403, "M_FORBIDDEN", roomIdOrAlias=private, body={})


def inviting(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    room = walk.ok(alice, "createRoom", body={"preset": "private_chat", "name": "Hive"})["room_id"]
    assert walk.ok(alice, "inviteUser", roomId=room, body={"user_id": bob.user_id, "reason": "come"}) == {}
    invited = walk.ok(bob, "sync")["rooms"]["invite"][room]["invite_state"]["events"]
    assert {"m.room.create", "m.room.name", "m.room.member"} <= {event["type"] for event in invited}
    own = next(event for event in invited if event.get("state_key") == bob.user_id)
    assert own["content"]["membership"] == "invite" and own["content"]["reason"] == "come"
    walk.refused(carol, "inviteUser", 403, "M_FORBIDDEN", roomId=room, body={"user_id": carol.user_id})
    walk.refused(alice, "inviteUser", 400, "M_INVALID_PARAM", roomId=room, body={"user_id": "nobody"})
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    walk.refused(alice, "inviteUser", 403, "M_FORBIDDEN", roomId=room, body={"user_id": bob.user_id})


def leaving_and_forgetting(walk: Walker) -> None:
    alice, bob = walk.person("alice"), walk.person("bob")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    since = walk.ok(bob, "sync")["next_batch"]
    walk.refused(bob, "forgetRoom", 400, "M_UNKNOWN", roomId=room, body={})
    assert walk.ok(bob, "leaveRoom", roomId=room, body={"reason": "enough"}) == {}
    left = walk.ok(bob, "sync", query={"since": since, "timeout": 0})["rooms"]["leave"][room]
    last = left["timeline"]["events"][-1]
    assert last["content"] == {"membership": "leave", "reason": "enough"}
    assert walk.ok(bob, "forgetRoom", roomId=room, body={}) == {}
    assert room not in walk.ok(bob, "sync", query={"filter": '{"room":{"include_leave":true}}'})["rooms"].get(
        "leave", {}
    )
    walk.refused(bob, "leaveRoom", 403, "M_FORBIDDEN", roomId=f"!nowhere:{bob.user_id.partition(':')[2]}", body={})


def kicking_and_banning(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    room = walk.ok(alice, "createRoom", body={"preset": "public_chat"})["room_id"]
    for each in (bob, carol):
        walk.ok(each, "joinRoomById", roomId=room, body={})
    target = {"user_id": carol.user_id, "reason": "noise"}
    walk.refused(bob, "kick", 403, "M_FORBIDDEN", roomId=room, body=target)
    assert walk.ok(alice, "kick", roomId=room, body=target) == {}
    assert member_of(walk, alice, room, carol.user_id) == "leave"
    walk.refused(bob, "ban", 403, "M_FORBIDDEN", roomId=room, body=target)
    assert walk.ok(alice, "ban", roomId=room, body=target) == {}
    assert member_of(walk, alice, room, carol.user_id) == "ban"
    walk.refused(carol, "joinRoomById", 403, "M_FORBIDDEN", roomId=room, body={})
    walk.refused(bob, "unban", 403, "M_FORBIDDEN", roomId=room, body={"user_id": carol.user_id})
    assert walk.ok(alice, "unban", roomId=room, body={"user_id": carol.user_id}) == {}
    assert member_of(walk, alice, room, carol.user_id) == "leave"
    walk.ok(carol, "joinRoomById", roomId=room, body={})


def knocking(walk: Walker) -> None:
    alice, bob, carol = walk.person("alice"), walk.person("bob"), walk.person("carol")
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = walk.ok(alice, "createRoom", body={"initial_state": [rules], "name": "Closed"})["room_id"]
    assert walk.ok(bob, "knockRoom", roomIdOrAlias=room, body={"reason": "please"}) == {"room_id": room}
    assert member_of(walk, alice, room, bob.user_id) == "knock"
    knocked = walk.ok(bob, "sync")["rooms"]["knock"][room]["knock_state"]["events"]
    assert any(event["type"] == "m.room.name" and event["content"]["name"] == "Closed" for event in knocked)
    walk.ok(alice, "ban", roomId=room, body={"user_id": carol.user_id})
    walk.refused(carol, "knockRoom", 403, "M_FORBIDDEN", roomIdOrAlias=room, body={})
    server = bob.user_id.partition(":")[2]
    walk.refused(carol, "knockRoom", 404, "M_NOT_FOUND", roomIdOrAlias=f"#no-such-door:{server}", body={})
    walk.ok(alice, "inviteUser", roomId=room, body={"user_id": bob.user_id})
    walk.ok(bob, "joinRoomById", roomId=room, body={})
    assert member_of(walk, alice, room, bob.user_id) == "join"


STEPS = (joining_by_id_and_by_alias, inviting, leaving_and_forgetting, kicking_and_banning, knocking)
