"""A slow model of a room: it keeps every state in full and authorizes every event as it arrives.

Uses the pure rules and no code of the persister.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth, check_auth_events
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.signing import generate_signing_key
from shared.core.state_resolution import resolve

Key = tuple[str, str]
State = dict[Key, EventId]

OTHER_KEY = generate_signing_key(b"o" * 32, "o")


class Graph:
    """The event graph of a room.

    create: the room's create event
    events: event id -> event
    before: event id -> state before the event
    outcome: event id -> "accepted", "soft_failed" or "rejected"
    current: the room's state
    """

    def __init__(self, version: RoomVersion, create: Event) -> None:
        self.version = version
        self.create = create
        self.events: dict[EventId, Event] = {create.event_id: create}
        self.before: dict[str, State] = {create.event_id: {}}
        self.outcome: dict[str, str] = {create.event_id: "accepted"}
        self.extremities: set[EventId] = {create.event_id}
        self.current: State = {("m.room.create", ""): create.event_id}
        self._local = 0

    def after(self, event_id: EventId) -> State:
        event, state = self.events[event_id], self.before[event_id]
        if event.state_key is None or self.outcome[event_id] == "rejected":
            return state
        return {**state, (event.type, event.state_key): event.event_id}

    def resolved(self, event_ids: Sequence[EventId]) -> State:
        states = [self.after(event_id) for event_id in event_ids]
        return resolve(
            self.version,
            states,
            self.events.get,
            rejected=lambda event_id: self.outcome.get(event_id) == "rejected",
            create=self.create,
        )

    def arrive(self, event: Event, given: State | None = None) -> str:
        """Authorize an arriving event; return its outcome. given: the state before it, if predecessors are unknown."""
        before = self.resolved(event.prev_event_ids) if given is None else given
        self.events[event.event_id] = event
        self.before[event.event_id] = before
        outcome = "accepted"
        if not self._allowed_by_auth_events(event) or not self._allowed(event, before):
            outcome = "rejected"
        elif not self._allowed(event, self.current):
            outcome = "soft_failed"
        self.outcome[event.event_id] = outcome
        if outcome == "accepted":
            self.extremities = (self.extremities - set(event.prev_event_ids)) | {event.event_id}
            self.current = self.resolved(sorted(self.extremities))
        return outcome

    def _allowed_by_auth_events(self, event: Event) -> bool:
        named = [self.events[event_id] for event_id in event.auth_event_ids]
        rejected = {event_id for event_id in event.auth_event_ids if self.outcome[event_id] == "rejected"}
        try:
            check_auth_events(self.version, event, named, rejected)
        except AuthRuleViolation:
            return False
        return self._allowed(event, {(e.type, e.state_key or ""): e.event_id for e in named})

    def _allowed(self, event: Event, state: Mapping[Key, EventId]) -> bool:
        try:
            check_auth(self.version, event, {k: self.events[i] for k, i in state.items()}, self.create)
        except AuthRuleViolation:
            return False
        return True

    def make(
        self,
        previous: Sequence[EventId],
        sender: UserId,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        redacts: EventId | None = None,
        auth_in: State | None = None,
    ) -> Event:
        """Return another server's event that follows `previous`. auth_in: the state that provides its auth events."""
        self._local += 1
        state = self.resolved(list(previous)) if auth_in is None else auth_in
        keys = auth_types_for(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth = [self.events[state[key]] for key in keys if key in state]
        named = [*auth, *(self.events[event_id] for event_id in previous)]
        return build_event(
            self.version,
            room_id=self.create.room_id,
            sender=sender,
            type=event_type,
            state_key=state_key,
            content=content,
            prev_event_ids=list(previous),
            auth_event_ids=[event.event_id for event in auth],
            depth=1 + max(self.events[event_id].depth for event_id in previous),
            origin_server_ts=1_700_000_000_000 + self._local,
            redacts=redacts,
            signing_key=OTHER_KEY,
            server_name=sender.partition(":")[2],
            event_id_localpart=f"e{self._local}{self.create.event_id[1:9]}",
            reference_hashes={event.event_id: reference_hash(self.version, event.pdu) for event in named},
        )


class RandomEvents:
    """Makes random events of other servers' users. Most are allowed somewhere in the graph."""

    def __init__(self, graph: Graph, rng: random.Random, users: Sequence[UserId], locals_: Sequence[UserId]) -> None:
        self._graph = graph
        self._rng = rng
        self._users = users
        self._everybody = [*users, *locals_]

    def next(self) -> Event:
        graph, rng = self._graph, self._rng
        recent = [e for e in list(graph.events)[-12:] if e in graph.before]
        if rng.random() < 0.5:
            recent = [e for e in recent if e in graph.extremities] or recent
        previous = rng.sample(recent, min(len(recent), rng.choice([1, 1, 1, 2, 3])))
        sender = rng.choice(self._users)
        event_type, content, state_key = self._what(sender)
        auth_in = graph.current if rng.random() < 0.1 else None
        return graph.make(previous, sender, event_type, content, state_key, auth_in=auth_in)

    def _what(self, sender: UserId) -> tuple[str, dict[str, Any], str | None]:
        rng = self._rng
        kind = rng.random()
        if kind < 0.25:
            return "m.room.message", {"body": str(rng.random()), "msgtype": "m.text"}, None
        if kind < 0.4:
            return rng.choice(["m.room.topic", "m.room.name"]), {"topic": str(rng.random())}, ""
        if kind < 0.7:
            membership = rng.choice(["join", "join", "leave"])
            return "m.room.member", {"membership": membership, "n": rng.randrange(1 << 40)}, sender
        if kind < 0.85:
            membership = rng.choice(["invite", "ban", "leave"])
            return "m.room.member", {"membership": membership}, rng.choice(self._everybody)
        if kind < 0.93:
            return "m.room.join_rules", {"join_rule": rng.choice(["public", "invite"])}, ""
        users = {user: rng.choice([0, 50, 100]) for user in self._everybody if user not in self._creators()}
        return "m.room.power_levels", {"users": users, "events_default": 0, "state_default": rng.choice([0, 50])}, ""

    def _creators(self) -> set[str]:
        return {self._graph.create.sender} if self._graph.version.creators_outrank_all else set()
