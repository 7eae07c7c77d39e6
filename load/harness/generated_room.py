"""Generated events of other servers for a room: a long line of them, and branches from any event in it.

The state is not copied for each event. Each key of the state has its history, so a search finds its value at any index
of the line.
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


class GeneratedRoom:
    """A room with a line of events, each after the previous one. begun: the first events."""

    def __init__(self, version: RoomVersion, begun: Sequence[Event]) -> None:
        self.version = version
        self.create = begun[0]
        self.room_id = begun[0].room_id
        self.events: dict[EventId, Event] = {}
        self.line: list[Event] = []
        self.index: dict[EventId, int] = {}
        self.history: dict[StateKey, list[tuple[int, EventId]]] = {}
        self._count = 0
        for event in begun:
            self.append(event)

    def append(self, event: Event) -> None:
        """Append an event to the line."""
        self.events[event.event_id] = event
        self.index[event.event_id] = len(self.line)
        if event.state_key is not None:
            changes = self.history.setdefault((event.type, event.state_key), [])
            changes.append((len(self.line), event.event_id))
        self.line.append(event)

    def at(self, index: int, key: StateKey) -> EventId | None:
        """Return the event of a state key after an event of the line."""
        changes = self.history.get(key, [])
        found = bisect.bisect_right(changes, index, key=lambda change: change[0])
        return changes[found - 1][1] if found else None

    def membership(self, index: int, user_id: UserId) -> str | None:
        event_id = self.at(index, ("m.room.member", user_id))
        return None if event_id is None else str(self.events[event_id].content["membership"])

    def state(self) -> dict[StateKey, EventId]:
        """Return the state at the end of the line."""
        return {key: changes[-1][1] for key, changes in self.history.items()}

    def difference(self, index: int) -> dict[StateKey, EventId | None]:
        """Return the state after an event of the line, as an overlay of the state at the end of the line."""
        keys = {(e.type, e.state_key) for e in self.line[index + 1 :] if e.state_key is not None}
        return {key: self.at(index, key) for key in keys}

    def make(
        self, sender: UserId, event_type: str, content: Mapping[str, Any], state_key: str | None, index: int
    ) -> Event:
        """Return an event after an event of the line, with the right auth events."""
        self._count += 1
        keys = auth_types_for(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [event_id for key in keys if (event_id := self.at(index, key)) is not None]
        previous = self.line[index]
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
            origin_server_ts=_START_MS + self._count,
            signing_key=_KEY,
            server_name=sender.partition(":")[2],
            event_id_localpart=f"e{self._count}",
            reference_hashes=hashes,
        )
        self.events[event.event_id] = event
        return event


def membership_changes(room: GeneratedRoom, count: int, rng: random.Random) -> Iterator[Event]:
    """Append membership events to the line: half are first joins, the others new names, leaves and joins.

    The admin and the moderators join first.
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
        room.append(event)
        yield event


def branches(room: GeneratedRoom, count: int, reach: int, rng: random.Random) -> Iterator[Event]:
    """Generate events after random events among the last `reach` of the line. Most change the same few keys."""
    members = [UserId(key[1]) for key in room.history if key[0] == "m.room.member" and key[1].startswith("@user")]
    end = len(room.line) - 1
    # Not before users joined whom a moderator may ban.
    first = max(end - reach, room.history["m.room.member", MODERATORS[-1]][0][0] + 20)
    for number in range(count):
        index = rng.randint(first, end - 1)
        joined = rng.choice([user for user in rng.choices(members, k=200) if room.membership(index, user) == "join"])
        moderator = rng.choice(MODERATORS)
        kind = rng.random()
        if kind < 0.25:
            yield room.make(moderator, "m.room.topic", {"topic": f"topic {number}"}, "", index)
        elif kind < 0.4:
            yield room.make(moderator, "m.room.name", {"name": f"name {number}"}, "", index)
        elif kind < 0.65:
            content = {"membership": "join", "displayname": f"Branch {number}"}
            yield room.make(joined, "m.room.member", content, joined, index)
        elif kind < 0.8:
            yield room.make(moderator, "m.room.member", {"membership": "ban"}, joined, index)
        elif kind < 0.9:
            yield room.make(joined, "m.room.member", {"membership": "leave"}, joined, index)
        elif kind < 0.95:
            levels = room.at(index, ("m.room.power_levels", ""))
            assert levels is not None
            new = {**room.events[levels].content, "events": {"m.room.topic": number % 50}}
            yield room.make(ADMIN, "m.room.power_levels", new, "", index)
        else:
            yield room.make(joined, "m.room.message", {"msgtype": "m.text", "body": f"{number}"}, None, index)
