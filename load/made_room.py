"""Events of other servers for a room of ours: a long line of them, and branches from anywhere in it.

The room's state is never written out: each key has its history, so the state at any place of the line costs a search.
"""

import bisect
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.core.event_auth import auth_types_for
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.signing import generate_signing_key
from shared.core.state_resolution import StateKey

_KEY = generate_signing_key(b"l" * 32, "load")
MODERATORS = [UserId(f"@moderator{number}:b0.example") for number in range(10)]
ADMIN = UserId("@admin:b0.example")
_SERVERS = 500
_START_MS = 1_700_000_000_000


class MadeRoom:
    """begun: the room's events so far, each after the one before. line: all that follow each other, in order."""

    def __init__(self, version: RoomVersion, begun: Sequence[Event]) -> None:
        self.version = version
        self.create = begun[0]
        self.room_id = begun[0].room_id
        self.events: dict[EventId, Event] = {}
        self.line: list[Event] = []
        self.place: dict[EventId, int] = {}
        self.history: dict[StateKey, list[tuple[int, EventId]]] = {}
        self._local = 0
        for event in begun:
            self.take(event)

    def take(self, event: Event) -> None:
        """Let an event be the next of the line."""
        self.events[event.event_id] = event
        self.place[event.event_id] = len(self.line)
        if event.state_key is not None:
            changes = self.history.setdefault((event.type, event.state_key), [])
            changes.append((len(self.line), event.event_id))
        self.line.append(event)

    def at(self, place: int, key: StateKey) -> EventId | None:
        """Return what a key of the state holds after the line's event with this place."""
        changes = self.history.get(key, [])
        found = bisect.bisect_right(changes, place, key=lambda change: change[0])
        return changes[found - 1][1] if found else None

    def membership(self, place: int, user_id: UserId) -> str | None:
        event_id = self.at(place, ("m.room.member", user_id))
        return None if event_id is None else str(self.events[event_id].content["membership"])

    def state(self) -> dict[StateKey, EventId]:
        """Return the state at the line's end."""
        return {key: changes[-1][1] for key, changes in self.history.items()}

    def difference(self, place: int) -> dict[StateKey, EventId | None]:
        """Return the state after the line's event with this place, as an overlay upon the one at the line's end."""
        keys = {(e.type, e.state_key) for e in self.line[place + 1 :] if e.state_key is not None}
        return {key: self.at(place, key) for key in keys}

    def make(
        self, sender: UserId, event_type: str, content: Mapping[str, Any], state_key: str | None, place: int
    ) -> Event:
        """Return an event after the line's event with this place, with the auth events that it should have there."""
        self._local += 1
        keys = auth_types_for(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [event_id for key in keys if (event_id := self.at(place, key)) is not None]
        previous = self.line[place]
        hashes = None
        if self.version.references_with_hashes:
            named = [previous, *(self.events[event_id] for event_id in auth)]
            hashes = {event.event_id: reference_hash(self.version, event.pdu) for event in named}
        event = build_event(
            self.version,
            room_id=self.room_id,
            sender=sender,
            type=event_type,
            state_key=state_key,
            content=content,
            prev_event_ids=[previous.event_id],
            auth_event_ids=auth,
            depth=previous.depth + 1,
            origin_server_ts=_START_MS + self._local,
            signing_key=_KEY,
            server_name=sender.partition(":")[2],
            event_id_localpart=f"e{self._local}",
            reference_hashes=hashes,
        )
        self.events[event.event_id] = event
        return event


def membership_changes(room: MadeRoom, count: int, rng: random.Random) -> Iterator[Event]:
    """Make so many membership events at the line's end: half of them first joins, then new names, leaves, joins.

    The moderators and the admin come first.
    """
    users: list[UserId] = []
    firsts = iter([ADMIN, *MODERATORS])
    for number in range(count):
        user_id = next(firsts, None)
        if user_id is None and (len(users) < 2 or rng.random() < 0.5):
            user_id = UserId(f"@user{number}:b{number % _SERVERS}.example")
        if user_id is not None:
            content = {"membership": "join", "displayname": f"User {number}"}
            users += [] if user_id in MODERATORS or user_id == ADMIN else [user_id]
        else:
            user_id = rng.choice(users)
            joined = room.membership(len(room.line) - 1, user_id) == "join"
            if joined and rng.random() < 0.3:
                content = {"membership": "leave"}
            else:
                content = {"membership": "join", "displayname": f"User {number}"}
        event = room.make(user_id, "m.room.member", content, user_id, len(room.line) - 1)
        room.take(event)
        yield event


def branches(room: MadeRoom, count: int, reach: int, rng: random.Random) -> Iterator[Event]:
    """Make so many events, each after some event of the line among the last `reach`: most change the same few keys."""
    members = [UserId(key[1]) for key in room.history if key[0] == "m.room.member" and key[1].startswith("@user")]
    end = len(room.line) - 1
    # Not before somebody joined whom a moderator may ban.
    first = max(end - reach, room.history["m.room.member", MODERATORS[-1]][0][0] + 20)
    for number in range(count):
        place = rng.randint(first, end - 1)
        joined = rng.choice([user for user in rng.choices(members, k=200) if room.membership(place, user) == "join"])
        moderator = rng.choice(MODERATORS)
        kind = rng.random()
        if kind < 0.25:
            yield room.make(moderator, "m.room.topic", {"topic": f"topic {number}"}, "", place)
        elif kind < 0.4:
            yield room.make(moderator, "m.room.name", {"name": f"name {number}"}, "", place)
        elif kind < 0.65:
            content = {"membership": "join", "displayname": f"Branch {number}"}
            yield room.make(joined, "m.room.member", content, joined, place)
        elif kind < 0.8:
            yield room.make(moderator, "m.room.member", {"membership": "ban"}, joined, place)
        elif kind < 0.9:
            yield room.make(joined, "m.room.member", {"membership": "leave"}, joined, place)
        elif kind < 0.95:
            levels = room.at(place, ("m.room.power_levels", ""))
            assert levels is not None
            new = {**room.events[levels].content, "events": {"m.room.topic": number % 50}}
            yield room.make(ADMIN, "m.room.power_levels", new, "", place)
        else:
            yield room.make(joined, "m.room.message", {"msgtype": "m.text", "body": f"{number}"}, None, place)
