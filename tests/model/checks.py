"""Differences between the model and a client's view, and between the model and the server's lists for a user."""

from typing import Any

from tests.model.clients import ClassicClient, Client, SlidingVillager, passes
from tests.model.counts import MAIN, Reading, count, marks
from tests.model.happenings import Happenings
from tests.model.people import Device, Human
from tests.model.tale import path_of
from tests.model.world import Room
from tests.workers.synchrotron.sliding_client import DEPLOYED

_MEMBER = "m.room.member"
_SHOWN = ("m.room.create", "m.room.name", "m.room.topic", "m.room.join_rules")


def faults(world: Happenings, client: Client, *, fresh: bool = False) -> list[str]:
    """Return the differences between a client's view and the model. fresh: the client has just made an initial sync."""
    if isinstance(client, SlidingVillager):
        return _sliding_faults(world, client)
    user_id = client.user_id
    joined = {room_id for room_id, room in world.rooms.items() if room.membership(user_id) == "join"}
    if set(client.rooms) != joined:
        return [f"{user_id} ({client.query}) is in {sorted(joined)}, the client says {sorted(client.rooms)}"]
    found = _elsewhere_faults(world, client, fresh=fresh)
    for room_id in joined:
        room, mine = world.rooms[room_id], client.rooms[room_id]
        if _kept(world, room, client, mine.timeline) != _kept(world, room, client, room.visible(user_id)):
            found.append(f"timeline of {room_id}")
        if wrong := _wrong_state(room, client, mine.state):
            found.append(f"state of {room_id}: {wrong}")
        if (expected := _expected_counts(room, client)) != client.counts[room_id]:
            found.append(f"counts of {room_id}: {client.counts[room_id]}, but {expected} is right")
    return [f"{user_id} ({client.query}), {fault}" for fault in found]


def _kept(world: Happenings, room: Room, client: Client, event_ids: list[str]) -> list[str]:
    """Leave out events that the client filters, and those of users who were ever ignored, which depend on timing."""
    ignored = world.people[client.user_id].ever_ignored
    wanted = client.wanted if isinstance(client, ClassicClient) else {}
    events = [room.event(event_id) for event_id in event_ids]
    return [
        each["event_id"]
        for each in events
        if passes(each, wanted) and ("state_key" in each or each["sender"] not in ignored)
    ]


def _wrong_state(room: Room, client: ClassicClient, told: dict[tuple[str, str], str]) -> set[tuple[str, str]]:
    if client.wanted and "use_state_after" not in client.query:
        return set()  # such a client misses the state events that its filter hides from the timeline
    truth = room.naive.state_ids()
    if client.room_filter["state"]:
        wrong = {key for key in told if told[key] != truth.get(key)}
        return wrong | {key for key in truth if key[0] != _MEMBER and key not in told}
    return {key for key in told.keys() | truth.keys() if told.get(key) != truth.get(key)}


def _expected_counts(room: Room, client: ClassicClient) -> dict[str, tuple[int, int]]:
    counts = count(room.judged, client.user_id, room.readings.get(client.user_id, Reading()))
    if client.room_filter["timeline"].get("unread_thread_notifications"):
        return counts
    return {MAIN: _sum(counts)}


def _sum(counts: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(n for n, _ in counts.values()), sum(h for _, h in counts.values())


# -- rooms in which the user is not joined


def _elsewhere_faults(world: Happenings, client: ClassicClient, *, fresh: bool) -> list[str]:
    found = []
    user_id, member = client.user_id, world.people[client.user_id]
    told = {part: {room_id for room_id, one in client.elsewhere.items() if one.part == part} for part in _PARTS}
    there: dict[str, set[str]] = {part: set() for part in _PARTS}
    hidden = set()  # invitations by users who are or were ignored
    for room_id, room in world.rooms.items():
        index = room.member_index(user_id)
        if index is None:
            continue
        membership = room.membership(user_id)
        there["leave" if membership == "ban" else membership].add(room_id) if membership != "join" else None
        inviter = room.naive.events[index]["sender"]
        if membership == "invite" and inviter in (member.ignores if fresh else member.ever_ignored):
            hidden.add(room_id)
    for part in ("invite", "knock"):
        if told[part] - (set() if fresh else hidden) != there[part] - hidden:
            found.append(f"{part}: {told[part]}, but {there[part]} is right, hidden: {hidden}")
        found += [
            fault for room_id in told[part] & there[part] for fault in _stripped_faults(world, client, room_id, part)
        ]
    forgotten = member.forgotten if fresh else member.ever_forgotten
    # For clients, a hidden invitation does not replace the earlier leave.
    left = told["leave"] - (set() if fresh else forgotten | hidden)
    if "include_leave" in client.room_filter:
        if left != there["leave"] - forgotten:
            found.append(f"left: {left}, but {there['leave'] - forgotten} is right")
    elif not left <= there["leave"] or (fresh and left):
        found.append(f"left: {left}, but there are only {there['leave']}")
    for room_id in left & there["leave"]:
        found += _left_faults(world, client, room_id)
    return found


_PARTS = ("invite", "knock", "leave")


def _left_faults(world: Happenings, client: ClassicClient, room_id: str) -> list[str]:
    """Check the timeline of a room that the user has left.

    It is a part of the visible events without gaps, up to the user's leave or ban event, which is always shown.
    """
    room = world.rooms[room_id]
    mine = _kept(world, room, client, client.elsewhere[room_id].timeline)
    last = room.member_index(client.user_id) or 0
    seen = [event_id for event_id in room.visible(client.user_id) if room.index_of[event_id] < last]
    seen.append(room.naive.events[last]["event_id"])
    seen = _kept(world, room, client, seen)
    if mine != seen[len(seen) - len(mine) :]:
        return [f"timeline of {room_id}, which was left: {mine}, but {seen} is right"]
    return []


def _stripped_faults(world: Happenings, client: ClassicClient, room_id: str, part: str) -> list[str]:
    room = world.rooms[room_id]
    state = room.naive.after[room.member_index(client.user_id) or 0]
    sender = state[_MEMBER, client.user_id]["sender"]
    wanted = [*((kind, "") for kind in _SHOWN), (_MEMBER, sender), (_MEMBER, client.user_id)]
    expected = {
        key: {name: state[key][name] for name in ("type", "state_key", "sender", "content")}
        for key in wanted
        if key in state
    }
    events = client.elsewhere[room_id].section[f"{part}_state"]["events"]
    told = {(event["type"], event["state_key"]): event for event in events}
    gone = room.erased_at.keys()
    wrong = [key for key in expected if told.get(key) != expected[key] and state[key]["sender"] not in gone]
    return [f"stripped state of {room_id}: {wrong}"] if wrong or told.keys() - expected.keys() else []


# -- sliding sync


def _sliding_faults(world: Happenings, client: SlidingVillager) -> list[str]:
    user_id, found = client.user_id, []
    for membership in ("join", "knock"):
        there = {room_id for room_id, room in world.rooms.items() if room.membership(user_id) == membership}
        told = {room_id for room_id, room in client.rooms.items() if room.membership == membership}
        if told != there:
            found.append(f"{membership}: {told}, but {there} is right")
    if client.doubled:
        found.append(f"delivered twice: {client.doubled}")
    for room_id, mine in client.rooms.items():
        room = world.rooms[room_id]
        if mine.membership != "join" or room.membership(user_id) != "join":
            continue
        assert client.device is not None
        timeline = _earlier(client.device, room, mine.prev_batch) + mine.timeline
        if _kept(world, room, client, timeline) != _kept(world, room, client, room.visible(user_id)):
            found.append(f"timeline of {room_id}")
        truth = room.naive.state_ids()
        if wrong := {key for key in mine.state.keys() | truth.keys() if mine.state.get(key) != truth.get(key)}:
            found.append(f"state of {room_id}: {wrong}")
        if mine.joined != len(room.joined()):
            found.append(f"{mine.joined} members in {room_id}, but {len(room.joined())} is right")
        expected = _sum(count(room.judged, user_id, room.readings.get(user_id, Reading())))
        if client.path == DEPLOYED and client.unread[room_id] != expected:
            found.append(f"counts of {room_id}: {client.unread[room_id]}, but {expected} is right")
    return [f"{user_id} ({client.path}, {client.body}), {fault}" for fault in found]


def _earlier(device: Device, room: Room, place: str | None) -> list[str]:
    """Return the events before a position, oldest first."""
    found: list[str] = []
    while place is not None:
        page = device.get(f"{path_of(room)}/messages", {"dir": "b", "limit": 50, "from": place})
        assert page.status == 200, page.body
        found += [event["event_id"] for event in page.json["chunk"]]
        place = page.json.get("end")
    return found[::-1]


# -- lists


def check_notifications(world: Happenings, human: Human) -> None:
    """Check that GET /notifications lists the visible events that notified the user, with their read marks."""
    query: dict[str, Any] = {"limit": 1 + len(human.user_id) % 7}
    listed: dict[str, list[tuple[str, bool]]] = {}
    while query:
        page = human.get("/notifications", query)
        for one in page["notifications"]:
            listed.setdefault(one["room_id"], []).append((one["event"]["event_id"], one["read"]))
        query = {**query, "from": page["next_token"]} if "next_token" in page else {}
    ignored = world.people[human.user_id].ignores
    for room_id, room in world.rooms.items():
        expected = []
        if room.membership(human.user_id) == "join":
            visible = set(room.visible(human.user_id))
            read = marks(room.judged, human.user_id, room.readings[human.user_id])
            for index, each in reversed(list(enumerate(room.judged))):
                hidden = "state_key" not in each.event and each.event["sender"] in ignored
                if each.outcome(human.user_id)[0] and each.event["event_id"] in visible and not hidden:
                    expected.append((each.event["event_id"], index <= read[each.thread]))
        assert listed.pop(room_id, []) == expected, (human.user_id, room_id)
    assert not listed


def check_tags(world: Happenings, human: Human) -> None:
    tags = world.people[human.user_id].tags
    for room_id, room in world.rooms.items():
        found = human.get(f"/user/{human.user_id}{path_of(room)}/tags")["tags"]
        assert found == tags.get(room_id, {}), (human.user_id, room_id)
