"""Measure state resolution: CPU and memory on generated forks of big rooms, without database and network.

    python -m load.state_resolution --members 50000 --changes 4 --fights 200 --forks 1000 [--version 12] [--only NAME]

Scenarios, each from one room whose members changed their profiles often, under many power levels:
    topic      two branches differ in the topic only, and all memberships agree
    renames    on each of two branches every member changed their name: all entries conflict, with deep auth chains
    strangers  the branches share only the room's beginning: each has its own join of every member
    fight      two branches of power levels, each event after the previous one
    bans       on one branch moderators ban a tenth of the members, on the other those members change their names
    forks      many branches with one membership each

The same as overlays of the room's state, as a persister keeps branches:
    small      two branches of three entries each: a topic, a profile, a ban
    overlays   as many branches as `forks`, each an overlay of one membership
    all        two overlays of every entry: everything conflicts
"""

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion, get_room_version
from shared.core.state_resolution import Overlay, resolve, resolve_overlays

State = dict[tuple[str, str], EventId]

FOUNDER = UserId("@founder:a.example")


class MadeUpRoom:
    """A room of events without hashes and signatures, which resolution does not read. Ids are in order of creation."""

    def __init__(self, version: RoomVersion, members: int, changes: int, fights: int) -> None:
        self.version = version
        self.events: dict[EventId, Event] = {}
        self.calls = 0
        self.create = self.add({}, "m.room.create", FOUNDER, "", {"creator": FOUNDER, "room_version": version.name})
        self.state: State = {("m.room.create", ""): self.create.event_id}
        self.send(self.state, "m.room.member", FOUNDER, FOUNDER, {"membership": "join"}, [self.create.event_id])
        self.set_levels(self.state, 0)
        self.send(self.state, "m.room.join_rules", FOUNDER, "", {"join_rule": "public"})
        self.users = [UserId(f"@user{number}:b{number % 500}.example") for number in range(members)]
        every = max(1, members * (changes + 1) // max(1, fights))
        made = 0
        for change in range(changes + 1):
            for user_id in self.users:
                self.rename(self.state, user_id, change)
                made += 1
                if made % every == 0:
                    self.set_levels(self.state, made)

    def find(self, event_id: EventId) -> Event | None:
        """Return an event, and count the call."""
        self.calls += 1
        return self.events.get(event_id)

    def rename(self, state: State, user_id: UserId, change: int) -> None:
        """Let a user join, or change their name."""
        self.send(state, "m.room.member", user_id, user_id, {"membership": "join", "displayname": f"{change}"})

    def set_levels(self, state: State, number: int, sender: UserId = FOUNDER) -> None:
        """Set new power levels, with 100 moderators."""
        users = {} if self.version.creators_outrank_all else {FOUNDER: 100}
        users |= {UserId(f"@user{index}:b{index}.example"): 50 for index in range(100)}
        content = {"users": users, "events": {"m.example": number % 50}}
        self.send(state, "m.room.power_levels", sender, "", content)

    def send(
        self,
        state: State,
        event_type: str,
        sender: UserId,
        state_key: str,
        content: Mapping[str, Any],
        prev_event_ids: list[EventId] | None = None,
    ) -> Event:
        """Create a state event with the right auth events, and put it into the state."""
        event = self.add(state, event_type, sender, state_key, content, prev_event_ids or [])
        state[event_type, state_key] = event.event_id
        return event

    def add(
        self,
        state: State,
        event_type: str,
        sender: UserId,
        state_key: str,
        content: Mapping[str, Any],
        prev_event_ids: list[EventId] | None = None,
    ) -> Event:
        """Create a state event without changing the state."""
        keys = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if self.version.create_in_auth_events:
            keys.append(("m.room.create", ""))
        if event_type == "m.room.member":
            keys += [("m.room.join_rules", ""), ("m.room.member", state_key)]
        number = len(self.events)
        event = Event(
            event_id=EventId(f"${number:042x}"),
            room_id=RoomId("!room:a.example"),
            type=event_type,
            sender=UserId(sender),
            state_key=state_key,
            content=content,
            depth=number,
            origin_server_ts=1_700_000_000_000 + number,
            prev_event_ids=tuple(prev_event_ids or ()),
            auth_event_ids=tuple(dict.fromkeys(state[key] for key in keys if key in state)),
            redacts=None,
            pdu={},
            encoded=b"",
        )
        self.events[event.event_id] = event
        return event


def topic(room: MadeUpRoom, forks: int) -> list[State]:
    """Return the states after two changes of topic, by two moderators."""
    states = []
    for user_id in room.users[:2]:
        state = dict(room.state)
        room.send(state, "m.room.topic", user_id, "", {"topic": user_id})
        states.append(state)
    return states


def renames(room: MadeUpRoom, forks: int) -> list[State]:
    """Return the states of two branches, on each of which every member changed their name."""
    states = []
    for branch in range(2):
        state = dict(room.state)
        for user_id in room.users:
            room.rename(state, user_id, 1000 + branch)
        states.append(state)
    return states


def strangers(room: MadeUpRoom, forks: int) -> list[State]:
    """Return two states whose members joined on each branch separately, under its own power levels."""
    begun = {key: event_id for key, event_id in room.state.items() if key[0] != "m.room.member" or key[1] == FOUNDER}
    states = []
    for branch in range(2):
        state = dict(begun)
        for change in range(3):
            room.set_levels(state, branch + change)
            for user_id in room.users:
                room.rename(state, user_id, change)
        states.append(state)
    return states


def fight(room: MadeUpRoom, forks: int) -> list[State]:
    """Return the states after two rows of power levels, 500 each."""
    states = []
    for branch in range(2):
        state = dict(room.state)
        for number in range(500):
            room.set_levels(state, branch + 2 * number, FOUNDER if branch else room.users[number % 100])
        states.append(state)
    return states


def bans(room: MadeUpRoom, forks: int) -> list[State]:
    """Return a state in which a tenth of the members are banned, and one in which they changed their names."""
    banned, renamed = dict(room.state), dict(room.state)
    for index, user_id in enumerate(room.users[100 : 100 + len(room.users) // 10]):
        room.send(banned, "m.room.member", room.users[index % 100], user_id, {"membership": "ban"})
        room.rename(renamed, user_id, 2000)
    return [banned, renamed]


def forks(room: MadeUpRoom, forks: int) -> list[State]:
    """Return states with one different membership each."""
    states = []
    for index in range(forks):
        state = dict(room.state)
        room.rename(state, room.users[index % len(room.users)], 3000 + index)
        states.append(state)
    return states


class Forked(State):
    """A copy of the room's state, with an overlay of its changes."""

    def __init__(self, base: State) -> None:
        super().__init__(base)
        self.overlay: dict[tuple[str, str], EventId | None] = {}

    def __setitem__(self, key: tuple[str, str], event_id: EventId) -> None:
        super().__setitem__(key, event_id)
        self.overlay[key] = event_id

    def take_back(self, key: tuple[str, str], event_id: EventId) -> None:
        """Set an entry as it was in the base."""
        super().__setitem__(key, event_id)


def small(room: MadeUpRoom, forks: int) -> list[Overlay]:
    """Return two branches, on which a moderator sets the topic, bans a member and changes their own name."""
    branches = []
    for index in range(2):
        branch = Forked(room.state)
        moderator, banned = room.users[index], room.users[-1 - index]
        room.send(branch, "m.room.topic", moderator, "", {"topic": moderator})
        room.send(branch, "m.room.member", moderator, banned, {"membership": "ban"})
        room.rename(branch, moderator, 4000)
        branches.append(branch.overlay)
    return list(branches)


def overlays(room: MadeUpRoom, forks: int) -> list[Overlay]:
    """Return overlays of one membership each."""
    branches = []
    template = Forked(room.state)
    for index in range(forks):
        template.overlay = {}
        key = ("m.room.member", room.users[index % len(room.users)])
        before = room.state[key]
        room.rename(template, room.users[index % len(room.users)], 5000 + index)
        branches.append(template.overlay)
        template.take_back(key, before)
    return list(branches)


def everything(room: MadeUpRoom, forks: int) -> list[Overlay]:
    """Return two overlays of all entries but the create event, each with its own names and power levels."""
    branches = []
    for index in range(2):
        branch = Forked(room.state)
        room.set_levels(branch, 6000 + index)
        room.send(branch, "m.room.join_rules", FOUNDER, "", {"join_rule": "public", "branch": index})
        for user_id in [FOUNDER, *room.users]:
            room.rename(branch, user_id, 6000 + index)
        branches.append(branch.overlay)
    return list(branches)


STATES: Mapping[str, Callable[[MadeUpRoom, int], list[State]]] = {
    "topic": topic,
    "renames": renames,
    "strangers": strangers,
    "fight": fight,
    "bans": bans,
    "forks": forks,
}
OVERLAYS: Mapping[str, Callable[[MadeUpRoom, int], list[Overlay]]] = {
    "small": small,
    "overlays": overlays,
    "all": everything,
}


def measure(room: MadeUpRoom, run: Callable[[], Mapping[tuple[str, str], EventId | None]], with_memory: bool) -> str:
    """Return CPU, memory and look-ups of one resolution as text."""
    gc.collect()
    room.calls = 0
    started = time.process_time()
    resolved = run()
    cpu_ms = (time.process_time() - started) * 1000
    calls = room.calls
    peak = ""
    if with_memory:
        tracemalloc.start()
        run()
        peak = f"{tracemalloc.get_traced_memory()[1] / 2**20:8.2f} MiB"
        tracemalloc.stop()
    return f"{len(resolved):7} entries {cpu_ms:9.2f} CPU ms {peak} {calls:8} look-ups"


def resolution(room: MadeUpRoom, name: str, forks: int) -> tuple[int, Callable[[], Mapping[Any, EventId | None]]]:
    """Return the number of states, and a function that resolves them."""
    if name in OVERLAYS:
        branches = OVERLAYS[name](room, forks)
        return len(branches), lambda: resolve_overlays(
            room.version, room.state, branches, room.find, create=room.create
        )
    states = STATES[name](room, forks)
    return len(states), lambda: resolve(room.version, states, room.find, create=room.create)


def main() -> None:
    """Create the room, resolve each scenario, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--changes", type=int, default=4, help="memberships of each member after the join")
    parser.add_argument("--fights", type=int, default=200, help="power levels events in the room's past")
    parser.add_argument("--forks", type=int, default=100, help="branches of the scenario of that name")
    parser.add_argument("--version", default="12", help="room version")
    parser.add_argument(
        "--only", choices=[*STATES, *OVERLAYS], action="append", help="run this one only; can be repeated"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the second, slower run that measures memory")
    options = parser.parse_args()
    room = MadeUpRoom(get_room_version(options.version), options.members, options.changes, options.fights)
    print(f"room version {options.version}: {len(room.events)} events, {len(room.state)} entries of state")
    for name in options.only or [*STATES, *OVERLAYS]:
        count, run = resolution(room, name, options.forks)
        print(f"{name:10}{count:5} states {measure(room, run, not options.no_memory)}", flush=True)


if __name__ == "__main__":
    main()
