"""Random rooms by hypothesis: a DAG of real events with forks, merges and wrong claims, and states to resolve.

Every event is allowed by the events that it cites, as it must be on a server before resolution. Some events are not
allowed by the state before them (rejected), or cite the state of another point than the one they follow, like those of
a server with a wrong state. For the same reason states to resolve may have single outdated entries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import ROOM_VERSIONS, RoomVersion
from tests.core.state_resolution import oracle
from tests.core.state_resolution.scenario import KEY, START_MS, Key, State, key_of

#: Two users for each of two servers, so that one of them can authorise the other's restricted join.
USERS = tuple(
    map(UserId, ("@alice:a.example", "@bob:b.example", "@carol:a.example", "@dave:b.example", "@eve:c.example"))
)
ALICE = USERS[0]

#: Each algorithm in a third of the cases. For v2, the versions whose rules differ in a way that matters to resolution.
VERSIONS = (("1",), ("2", "6", "7", "10", "11"), ("12",))

T = TypeVar("T")

#: A point of the DAG: its newest event and the state after it.
_Place = tuple[Event, State]


@dataclass
class RandomRoom:
    version: RoomVersion
    events: dict[EventId, Event] = field(default_factory=dict)
    places: list[_Place] = field(default_factory=list)
    rejected: set[EventId] = field(default_factory=set)
    missing: set[EventId] = field(default_factory=set)
    states: list[dict[Key, EventId]] = field(default_factory=list)

    @property
    def create(self) -> Event:
        return self.places[0][0]

    def find(self, event_id: EventId) -> Event | None:
        return None if event_id in self.missing else self.events.get(event_id)

    def resolve(
        self, resolve: Callable[..., dict[Key, EventId]], states: Sequence[Mapping[Key, EventId]]
    ) -> dict[Key, EventId]:
        return resolve(self.version, states, self.find, rejected=self.rejected.__contains__, create=self.create)

    def __repr__(self) -> str:
        """Everything needed to follow a counterexample by hand."""
        short = {event_id: f"{n}" for n, event_id in enumerate(self.events)}
        lines = [f"room version {self.version.name}"]
        for event_id, event in self.events.items():
            marks = ["rejected"] * (event_id in self.rejected) + ["missing"] * (event_id in self.missing)
            after = [short[EventId(named)] for named in event.prev_event_ids]
            cites = [short[EventId(named)] for named in event.auth_event_ids]
            ts = event.origin_server_ts - START_MS
            lines.append(
                f"{short[event_id]}: {event.type} {event.state_key!r} by {event.sender} {dict(event.content)} "
                f"after {after} cites {cites} ts {ts} depth {event.depth} {event_id} {' '.join(marks)}"
            )
        for state in self.states:
            lines.append("state: " + " ".join(f"{kind}|{key}={short[value]}" for (kind, key), value in state.items()))
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # otherwise hypothesis prints all fields of all events


@st.composite
def random_rooms(draw: st.DrawFn, max_events: int = 24) -> RandomRoom:
    """Draw a room and two to four states of it."""
    return _Maker(draw).make(max_events)


class _Maker:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.room = RandomRoom(ROOM_VERSIONS[self.pick(self.pick(VERSIONS))])
        self.version = self.room.version

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def one_in(self, n: int) -> bool:
        return self.draw(st.integers(0, n - 1)) == n - 1

    def make(self, max_events: int) -> RandomRoom:
        self._begin()
        tips = [self.room.places[-1]] * self.pick((2, 2, 3))
        for _ in range(self.draw(st.integers(max_events // 3, max_events))):
            self._extend(tips)
        self._draw_states(tips)
        everything = list(self.room.events)
        for marked in (self.room.rejected, self.room.missing):
            while self.one_in(3):
                marked.add(self.pick(everything[1:]))  # never the create event
        return self.room

    # The room's beginning

    def _begin(self) -> None:
        content: dict[str, Any] = {"room_version": self.version.name}
        if self.version.creator_in_content:
            content["creator"] = ALICE
        if self.version.additional_creators and self.one_in(4):
            content["additional_creators"] = [USERS[1]]
        self._follow([], "m.room.create", ALICE, "", content)
        self._append("m.room.member", ALICE, ALICE, {"membership": "join"})
        if self.one_in(6):
            return  # without levels and join rules
        self._append("m.room.power_levels", ALICE, "", {"users": self._users({USERS[1]: 50})})
        self._append("m.room.join_rules", ALICE, "", {"join_rule": "public"})
        for user in USERS[1 : 2 + self.draw(st.integers(0, 2))]:
            self._append("m.room.member", user, user, {"membership": "join"})
        if self.one_in(2):
            self._append("m.room.join_rules", ALICE, "", {"join_rule": self.pick(self._join_rules())})

    def _append(self, event_type: str, sender: UserId, state_key: str, content: dict[str, Any]) -> None:
        self._follow([self.room.places[-1]], event_type, sender, state_key, content)

    def _users(self, levels: dict[str, int]) -> dict[str, int]:
        users = {ALICE: 100, **levels}
        if self.version.creators_outrank_all:
            creators = (ALICE, *self.room.create.content.get("additional_creators", ()))
            users = {user: level for user, level in users.items() if user not in creators}
        return users

    def _join_rules(self) -> list[str]:
        rules = ["public", "invite", "private"]
        known = {
            "knock": self.version.knocking,
            "restricted": self.version.restricted,
            "knock_restricted": self.version.knock_restricted,
        }
        return rules + [rule for rule, is_known in known.items() if is_known]

    # One more event somewhere in the DAG

    def _extend(self, tips: list[_Place]) -> None:
        """Add an event to one of the branches, or merge two. A branch may start again at an older point."""
        branch = self.draw(st.integers(0, len(tips) - 1))
        if self.one_in(12):
            tips[branch] = self.pick(self.room.places[1:])
        after = [tips[branch]]
        if self.one_in(10):
            after += [tip for tip in tips if tip[0] is not after[0][0]][:1]
        for _ in range(3):
            if self._follow(after, *self._change(after[0][1])):
                tips[branch] = self.room.places[-1]
                return

    def _change(self, state: State) -> tuple[str, UserId, str, dict[str, Any]]:
        """Draw (type, sender, state key, content) of a change that may well be allowed."""
        joined = [
            UserId(key[1])
            for key, event in state.items()
            if key[0] == "m.room.member" and event.content["membership"] == "join"
        ]
        sender = self.pick(joined or [ALICE])
        if sender != ALICE and self.one_in(3):
            sender = self.pick([user for user in joined if user in USERS[:2]] or [ALICE])
        kind = self.pick(
            ("member", "member", "own", "own", "levels", "levels", "levels", "rules", "topic", "topic", "name")
        )
        if kind == "own":
            user = self.pick(USERS)
            content: dict[str, Any] = {"membership": self.pick(("join", "join", "leave", "knock"))}
            content["displayname"] = str(self.draw(st.integers(0, 2)))
            if self.version.restricted and content["membership"] == "join" and self.one_in(3):
                content["join_authorised_via_users_server"] = USERS[USERS.index(user) - 2]
            return "m.room.member", user, user, content
        if kind == "member":
            membership = self.pick(("ban", "leave", "invite"))
            return "m.room.member", sender, self.pick(USERS), {"membership": membership}
        if kind == "levels":
            return "m.room.power_levels", sender, "", self._levels(state)
        if kind == "rules":
            state_key = "odd" if self.one_in(8) else ""
            return "m.room.join_rules", sender, state_key, {"join_rule": self.pick(self._join_rules())}
        return f"m.room.{kind}", sender, "", {kind: str(self.draw(st.integers(0, 99)))}

    def _levels(self, state: State) -> dict[str, Any]:
        current = state.get(("m.room.power_levels", ""))
        content: dict[str, Any] = dict(current.content) if current else {"users": self._users({})}
        if self.one_in(5):
            name = self.pick(("ban", "kick", "invite", "state_default", "users_default"))
            content[name] = 25 * self.draw(st.integers(0, 3))
        elif self.one_in(5):
            content["events"] = {"m.room.topic": 25 * self.draw(st.integers(0, 3))}
        else:
            level = self.pick((0, 50, 50, 75, 100))
            content["users"] = self._users({**content["users"], self.pick(USERS): level})
        return content

    def _follow(
        self,
        after: list[_Place],
        event_type: str,
        sender: UserId,
        state_key: str,
        content: dict[str, Any],
    ) -> bool:
        """Add this event if the events that it will cite allow it, and return True if they do.

        It is rejected if the state before it does not allow it.
        """
        before = self._state_before([state for _, state in after])
        # One in six cites the state of another point of the DAG.
        known = self.pick(self.room.places)[1] if after and self.one_in(6) else before
        wanted = auth_types_for(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [known[key] for key in wanted if key in known]
        prev = [event for event, _ in after]
        event = self._build(event_type, sender, state_key, content, prev, auth)
        create = self.room.create if self.room.places else event
        if event.event_id in self.room.events or not self._allows(
            event, {key_of(cited): cited for cited in auth}, create
        ):
            return False
        self.room.events[event.event_id] = event
        if self._allows(event, before, create):
            self.room.places.append((event, {**before, key_of(event): event}))
        else:
            self.room.rejected.add(event.event_id)
            self.room.places.append((event, before))
        return True

    def _state_before(self, states: list[State]) -> State:
        if len(states) < 2:
            return states[0] if states else {}
        maps = [{key: event.event_id for key, event in state.items()} for state in states]
        resolved = self.room.resolve(oracle.resolve, maps)
        return {key: self.room.events[event_id] for key, event_id in resolved.items()}

    def _allows(self, event: Event, state: State, create: Event) -> bool:
        try:
            check_auth(self.version, event, state, create)
        except AuthRuleViolation:
            return False
        return True

    def _build(
        self,
        event_type: str,
        sender: UserId,
        state_key: str,
        content: dict[str, Any],
        prev: list[Event],
        auth: list[Event],
    ) -> Event:
        hashes: dict[str, bytes] | None = None
        if self.version.references_with_hashes:
            hashes = {event.event_id: reference_hash(self.version, event.pdu) for event in [*prev, *auth]}
        room_id: RoomId | None = None if self.version.room_id_is_create_hash else RoomId("!room:a.example")
        depth = max((event.depth for event in prev), default=0) + 1
        return build_event(
            self.version,
            room_id=self.room.create.room_id if prev else room_id,
            sender=sender,
            type=event_type,
            state_key=state_key,
            content=content,
            prev_event_ids=[event.event_id for event in prev],
            auth_event_ids=[event.event_id for event in auth],
            # Depths and times are claims of the sender's server. Few distinct values make many ties.
            depth=self.draw(st.integers(6, 12)) if prev and self.one_in(4) else depth,
            origin_server_ts=START_MS + (self.draw(st.integers(0, 12)) if prev else 0),
            signing_key=KEY,
            server_name=sender.partition(":")[2],
            event_id_localpart=f"e{len(self.room.events)}",
            reference_hashes=hashes,
        )

    # The states to resolve

    def _draw_states(self, tips: list[_Place]) -> None:
        """Draw states after the tips or other points, and states of one point that differ in outdated entries only."""
        _, state = self.pick(tips)
        one_place = self.one_in(3)
        for n in range(self.draw(st.integers(2, 4))):
            if n and not one_place:
                _, state = self.pick(tips) if self.one_in(2) else self.pick(self.room.places)
            claimed = {key: event.event_id for key, event in state.items()}
            while self.one_in(2):
                self._make_outdated(claimed)
            self.room.states.append(claimed)

    def _make_outdated(self, state: dict[Key, EventId]) -> None:
        events = list(self.room.events.values())
        wanted = self.pick(("m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.topic"))
        event = self.pick([event for event in events if event.type == wanted] or events)
        if self.one_in(6):
            state.pop(key_of(event), None)
        else:
            state[key_of(event)] = event.event_id
