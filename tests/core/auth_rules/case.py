"""Cases: pairs of events that differ in one thing and are on different sides of a rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.core.event_auth import check_auth, check_auth_events
from shared.core.events import Event
from shared.core.identifiers import EventId
from tests.core.rooms import VERSIONS, Room


@dataclass(frozen=True, slots=True)
class Attempt:
    """An event to be checked in a room's state.

    auth_events: None for the right ones from the room's state.
    rejected: ids of the auth events that were rejected.
    """

    room: Room
    event: Event
    auth_events: Sequence[Event] | None = None
    rejected: tuple[EventId, ...] = ()

    def judge(self) -> None:
        """Raise AuthRuleViolation unless all the rules allow the event."""
        version, event = self.room.version, self.event
        auth_events = self.auth_events
        if auth_events is None:
            auth_events = [e for e in self.room.state.values() if e.event_id in event.auth_event_ids]
        check_auth_events(version, event, auth_events, self.rejected)
        create = event if event.type == "m.room.create" else self.room.create
        check_auth(version, event, self.room.state, create)


#: Called with the room version's name and True to break the rule. The events of both calls differ in this alone, so
#: the broken one cannot be denied for any other reason: its twin is allowed.
Build = Callable[[str, bool], Attempt]


@dataclass(frozen=True, slots=True)
class Case:
    """A case of a rule.

    denied_by: the name of the rule that denies the broken twin, or None without a twin, since the rule is the last.
    A rule that only allows has the rule that then denies in `denied_by`; a rule that rejects has its own name there.
    """

    rule: str
    build: Build
    denied_by: str | None
    first: int
    last: int

    def holds_for(self, version: str) -> bool:
        return self.first <= int(version) <= self.last


CASES: list[Case] = []


def case(
    rule: str, *, denied_by: str | None = "", first: int = 1, last: int = len(VERSIONS)
) -> Callable[[Build], Build]:
    """Register a case of a rule, for room versions `first` to `last`. denied_by: "" for the rule itself."""

    def register(build: Build) -> Build:
        CASES.append(Case(rule, build, rule if denied_by == "" else denied_by, first, last))
        return build

    return register
