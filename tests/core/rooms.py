"""A small room for tests of events and auth rules: builds signed events of any room version on a linear DAG."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import ROOM_VERSIONS, RoomVersion
from shared.core.signing import SigningKey, generate_signing_key

KEY = generate_signing_key(b"k" * 32, "t")
ALICE, BOB, CAROL, DAVE = (
    UserId("@alice:a.example"),
    UserId("@bob:b.example"),
    UserId("@carol:c.example"),
    UserId("@dave:a.example"),
)

VERSIONS = list(ROOM_VERSIONS)


def versions_where(**flags: bool) -> list[str]:
    """Return the names of the room versions whose rules have these values."""
    return [
        name
        for name, version in ROOM_VERSIONS.items()
        if all(getattr(version, flag) is wanted for flag, wanted in flags.items())
    ]


class Room:
    """The room's current state. Alice, its creator, is joined."""

    def __init__(self, version_name: str, create_content: Mapping[str, Any] | None = None) -> None:
        self.version: RoomVersion = ROOM_VERSIONS[version_name]
        self.state: dict[tuple[str, str], Event] = {}
        self.events: list[Event] = []
        self.room_id: RoomId | None = None if self.version.room_id_is_create_hash else RoomId("!room:a.example")
        content = {"room_version": version_name, **(create_content or {})}
        if self.version.creator_in_content:
            content.setdefault("creator", ALICE)
        self.create = self.make("m.room.create", ALICE, content, "")
        self.room_id = self.create.room_id
        self._store(self.create)
        self.add("m.room.member", ALICE, {"membership": "join"}, ALICE)

    def make(
        self,
        event_type: str,
        sender: UserId,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        redacts: EventId | None = None,
        prev: Iterable[Event] | None = None,
        server_name: str | None = None,
        signing_key: SigningKey = KEY,
    ) -> Event:
        """Return an event after the room's newest one, with the right auth events. It is not added to the room."""
        auth_types = auth_types_for(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [self.state[key] for key in auth_types if key in self.state]
        previous = self.events[-1:] if prev is None else list(prev)
        hashes = {event.event_id: reference_hash(self.version, event.pdu) for event in [*auth, *previous]}
        return build_event(
            self.version,
            room_id=self.room_id,
            sender=sender,
            type=event_type,
            state_key=state_key,
            content=content,
            prev_event_ids=[event.event_id for event in previous],
            auth_event_ids=[event.event_id for event in auth],
            depth=len(self.events) + 1,
            origin_server_ts=1_700_000_000_000 + len(self.events),
            redacts=redacts,
            signing_key=signing_key,
            server_name=server_name or sender.partition(":")[2],
            event_id_localpart=f"e{len(self.events)}",
            reference_hashes=hashes,
        )

    def add(self, *args: Any, **kwargs: Any) -> Event:
        """Make an event, check it against the rules, and apply it to the state."""
        event = self.make(*args, **kwargs)
        check_auth(self.version, event, self.state, self.create)
        self._store(event)
        return event

    def force(self, *args: Any, **kwargs: Any) -> Event:
        """Make an event and apply it without checking the rules."""
        event = self.make(*args, **kwargs)
        self._store(event)
        return event

    def member(self, user_id: UserId, membership: str) -> Event:
        """Put a user's membership into the state, whether or not the rules allow it."""
        return self.force("m.room.member", user_id, {"membership": membership}, user_id)

    def join_rule(self, rule: str) -> Event:
        return self.force("m.room.join_rules", ALICE, {"join_rule": rule}, "")

    def power_levels(self, **content: Any) -> Event:
        """Put power levels into the state. Without `users`, Alice has 100 if the version lets her be named."""
        if "users" not in content:
            content["users"] = {} if self.version.creators_outrank_all else {ALICE: 100}
        return self.force("m.room.power_levels", ALICE, content, "")

    def _store(self, event: Event) -> None:
        self.events.append(event)
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event
