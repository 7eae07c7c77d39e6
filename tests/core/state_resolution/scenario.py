"""Scenarios of state resolution: a small room and the states to resolve, in YAML, built into real events.

A file has these keys:

title, reason: for people; `reason` derives the expected state from the spec's text.
versions: room versions ("6"), or all of an algorithm ("v1", "v2", "v2.1").
room: a beginning from rooms.yaml; "room" names its last event.
events: the events that follow, each with a `name`, a sender `by` ("bob" is @bob:b.example), a kind and, if needed:
    after: the event it follows (default: the one before it in the list).
    ts, depth: ms, and levels of the DAG; default: 1000 for each event in the list, and one more than `after`.
    auth: the events it cites, without the create event (default: selected from the state after `after`).
    rejected: it failed in the state before it, so that this state does not change.
    missing: it cannot be found.
  The kind is: `member` with `is` (and `authorised_by`, `token`, `displayname`), `levels`, `join_rule`, `topic`,
  `third_party_invite` with a token, or `type`, `key` and `content`.
states: each the name of an event (the state after it), or {after, with: [names], without: [names]}.
expected: all entries for the keys on which the states do not agree; by algorithm if they differ.
    {lowest_id: [a, b]}, {highest_id: [a, b]}, {lowest_sha1: [a, b]} choose by the events' real ids.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from shared.core.canonical_json import encode_unpadded
from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import ROOM_VERSIONS, RoomVersion
from shared.core.signing import generate_signing_key, sign_json

FOLDER = Path(__file__).parent
KEY = generate_signing_key(b"k" * 32, "t")
THIRD_PARTY_KEY = generate_signing_key(b"t" * 32, "0")
START_MS = 1_700_000_000_000

Key = tuple[str, str]
State = dict[Key, Event]


@dataclass
class BuiltRoom:
    """A scenario's events in one room version, by name."""

    version: RoomVersion
    events: dict[str, Event] = field(default_factory=dict)
    state_after: dict[str, State] = field(default_factory=dict)
    rejected: set[EventId] = field(default_factory=set)
    missing: set[EventId] = field(default_factory=set)

    @property
    def create(self) -> Event:
        return self.events["create"]

    def find(self, event_id: EventId) -> Event | None:
        if event_id in self.missing:
            return None
        return next((event for event in self.events.values() if event.event_id == event_id), None)

    def name_of(self, event_id: EventId) -> str:
        return next(name for name, event in self.events.items() if event.event_id == event_id)

    def state(self, description: str | Mapping[str, Any]) -> dict[Key, EventId]:
        """Return a state to resolve, as the file describes it."""
        if isinstance(description, str):
            description = {"after": description}
        state = {key: event.event_id for key, event in self.state_after[description["after"]].items()}
        for name in description.get("without", ()):
            del state[key_of(self.events[name])]
        for name in description.get("with", ()):
            state[key_of(self.events[name])] = self.events[name].event_id
        return state

    def chosen(self, expectation: str | Mapping[str, list[str]]) -> Event:
        """Return the event for an entry of `expected`."""
        if isinstance(expectation, str):
            return self.events[expectation]
        ((choice, names),) = expectation.items()
        events = [self.events[name] for name in names]
        if choice == "lowest_sha1":
            return min(events, key=lambda event: hashlib.sha1(event.event_id.encode()).digest())
        by_id = sorted(events, key=lambda event: event.event_id)
        return {"lowest_id": by_id[0], "highest_id": by_id[-1]}[choice]


@dataclass(frozen=True)
class Scenario:
    name: str
    data: Mapping[str, Any]

    def versions(self) -> list[RoomVersion]:
        wanted = [str(name) for name in self.data["versions"]]
        return [
            version
            for version in ROOM_VERSIONS.values()
            if version.name in wanted or f"v{version.state_resolution.value}" in wanted
        ]

    def build(self, version: RoomVersion) -> BuiltRoom:
        """Build the events, and check that each of them is accepted or rejected as the file says."""
        room = BuiltRoom(version)
        beginning = _beginnings()[self.data["room"]]
        previous: str | None = None
        for place, spec in enumerate([*beginning, *self.data.get("events", ())]):
            name = spec["name"]
            if place == len(beginning):
                previous = "room"
            assert name not in room.events, f"{self.name}: two events are named {name}"
            _add(room, spec, spec.get("after", previous), place)
            if place == len(beginning) - 1:
                room.state_after["room"] = room.state_after[name]
                room.events["room"] = room.events[name]
            previous = name
        return room

    def expected(self, room: BuiltRoom, states: Sequence[Mapping[Key, EventId]]) -> dict[Key, EventId]:
        """Return the whole expected state."""
        expected = self.data["expected"]
        if isinstance(expected, Mapping):
            expected = expected[f"v{room.version.state_resolution.value}"]
        agreed = {
            key: value for key, value in states[0].items() if all(state.get(key) == value for state in states[1:])
        }
        events = [room.chosen(entry) for entry in expected]
        stated = {key_of(event): event.event_id for event in events}
        assert not agreed.keys() & stated.keys(), f"{self.name}: expected names a key on which the states agree"
        return agreed | stated


def load_scenarios() -> Iterator[Scenario]:
    for path in sorted((FOLDER / "scenarios").glob("*.yaml")):
        yield Scenario(path.stem, _read(path))


def _read(path: Path) -> dict[str, Any]:
    # The C parser if there is one: it takes a tenth of the time.
    loaded: dict[str, Any] = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def key_of(event: Event) -> Key:
    assert event.state_key is not None
    return (event.type, event.state_key)


@cache
def _beginnings() -> Mapping[str, list[dict[str, Any]]]:
    return _read(FOLDER / "rooms.yaml")


def user_id(name: str) -> UserId:
    return UserId(name if name.startswith("@") else f"@{name}:{name[0]}.example")


def _add(room: BuiltRoom, spec: Mapping[str, Any], after: str | None, place: int) -> None:
    before = room.state_after[after] if after else {}
    event = _build(room, spec, room.events[after] if after else None, before, place)
    room.events[spec["name"]] = event
    cited = {key_of(found): found for found in room.events.values() if found.event_id in event.auth_event_ids}
    assert _allows(room, event, cited), f"{spec['name']} must be allowed by the events that it cites"
    rejected = spec.get("rejected", False)
    assert _allows(room, event, before) is not rejected, f"{spec['name']}: its `rejected` is wrong"
    if rejected:
        room.rejected.add(event.event_id)
    if spec.get("missing"):
        room.missing.add(event.event_id)
    applied = {} if rejected else {key_of(event): event}
    room.state_after[spec["name"]] = {**before, **applied}


def _allows(room: BuiltRoom, event: Event, state: State) -> bool:
    try:
        check_auth(room.version, event, state, room.create)
    except AuthRuleViolation:
        return False
    return True


def _build(room: BuiltRoom, spec: Mapping[str, Any], previous: Event | None, before: State, place: int) -> Event:
    version, sender = room.version, user_id(spec["by"])
    event_type, state_key, content = _what(version, spec)
    if event_type == "m.room.create":
        content = {"room_version": version.name, **content}
        if version.creator_in_content:
            content["creator"] = sender
    if "auth" in spec:
        created = [room.create] if version.create_in_auth_events else []
        auth = [*created, *(room.events[name] for name in spec["auth"])]
    else:
        wanted = auth_types_for(version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [before[key] for key in wanted if key in before]
    prev = [previous] if previous else []
    own_room = RoomId(f"!room:{sender.partition(':')[2]}") if not version.room_id_is_create_hash else None
    return build_event(
        version,
        room_id=room.create.room_id if previous else own_room,
        sender=sender,
        type=event_type,
        state_key=state_key,
        content=content,
        prev_event_ids=[event.event_id for event in prev],
        auth_event_ids=[event.event_id for event in auth],
        depth=spec.get("depth", previous.depth + 1 if previous else 1),
        origin_server_ts=START_MS + spec.get("ts", 1000 * place),
        signing_key=KEY,
        server_name=sender.partition(":")[2],
        event_id_localpart=spec["name"],
        reference_hashes={event.event_id: reference_hash(version, event.pdu) for event in [*auth, *prev]},
    )


def _what(version: RoomVersion, spec: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return type, state key and content of an event."""
    if "member" in spec:
        return "m.room.member", user_id(spec["member"]), _member_content(spec)
    if "levels" in spec:
        users = {user_id(name): level for name, level in spec["levels"].get("users", {}).items()}
        if version.creators_outrank_all:
            users.pop(user_id("alice"), None)
        return "m.room.power_levels", "", {**spec["levels"], "users": users}
    if "join_rule" in spec:
        return "m.room.join_rules", spec.get("key", ""), {"join_rule": spec["join_rule"]}
    if "topic" in spec:
        return "m.room.topic", "", {"topic": spec["topic"]}
    if "third_party_invite" in spec:
        content = {"display_name": "d", "public_key": encode_unpadded(THIRD_PARTY_KEY.verify_key)}
        return "m.room.third_party_invite", spec["third_party_invite"], content
    return spec["type"], spec.get("key", ""), dict(spec["content"])


def _member_content(spec: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"membership": spec["is"]}
    if "displayname" in spec:
        content["displayname"] = spec["displayname"]
    if "authorised_by" in spec:
        content["join_authorised_via_users_server"] = user_id(spec["authorised_by"])
    if "token" in spec:
        signed = {"mxid": user_id(spec["member"]), "token": spec["token"]}
        signed = sign_json(signed, "identity.example", THIRD_PARTY_KEY)
        content["third_party_invite"] = {"display_name": "d", "signed": signed}
    return content
