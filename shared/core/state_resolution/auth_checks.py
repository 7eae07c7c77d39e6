"""Authorization of events against a state under construction. Spec: rooms/v2, "Iterative auth checks"."""

from collections.abc import Callable, Iterable

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events.event import Event
from shared.core.events.readers import PowerLevels, power_levels_of
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.core.state_resolution.overlays import OverlaidState, StateKey

_CREATE = ("m.room.create", "")
_POWER_LEVELS = ("m.room.power_levels", "")

#: Cached power levels. An event of 64 KiB lists some 1,500 users, and a dispute may have thousands of events.
_MAX_PARSED = 64


class AuthChecks:
    """The authorization rules of one room, for one event after another.

    find: event id -> event, None if it is missing.
    create: the room's create event.
    may_fall_back: returns True if an auth event may be used for a key that the state lacks. None: none may.
    """

    def __init__(
        self,
        version: RoomVersion,
        create: Event,
        find: Callable[[EventId], Event | None],
        may_fall_back: Callable[[EventId], bool] | None,
    ) -> None:
        self._version = version
        self._create = create
        self._find = find
        self._may_fall_back = may_fall_back
        self._parsed: dict[EventId | None, PowerLevels] = {}

    def apply(self, state: OverlaidState, events: Iterable[Event]) -> None:
        """Add each state event that the rules allow to the state, in the given order, and skip the others.

        Spec: rooms/v2, "Iterative auth checks".
        """
        for event in events:
            if event.state_key is not None and self.allow(event, state):
                state[event.type, event.state_key] = event.event_id

    def allow(self, event: Event, state: OverlaidState) -> bool:
        """Return True if the rules allow the event in this state."""
        needed = self._needed_state(event, state)
        levels = self._levels(needed.get(_POWER_LEVELS))
        try:
            check_auth(self._version, event, needed, self._create, power_levels=levels)
        except AuthRuleViolation:
            return False
        return True

    def needed_keys(self, event: Event) -> list[StateKey]:
        """Return the keys of the state that the rules read for this event, except the create event's."""
        keys = auth_types_for(
            self._version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
        )
        return [key for key in keys if key != _CREATE]  # check_auth takes the create event as an argument

    def fallbacks(self, event: Event) -> dict[StateKey, Event]:
        """Return the event's own auth events, which are used for keys that the state lacks.

        If two have the same key, which no accepted event has, the first is used.
        """
        found: dict[StateKey, Event] = {}
        if self._may_fall_back is None:
            return found
        for text in event.auth_event_ids:
            event_id = EventId(text)
            cited = self._find(event_id)
            if cited is not None and cited.state_key is not None and self._may_fall_back(event_id):
                found.setdefault((cited.type, cited.state_key), cited)
        return found

    def _needed_state(self, event: Event, state: OverlaidState) -> dict[StateKey, Event]:
        needed: dict[StateKey, Event] = {}
        fallbacks: dict[StateKey, Event] | None = None
        for key in self.needed_keys(event):
            event_id = state.get(key)
            known = None if event_id is None else self._find(event_id)
            if known is None:
                if fallbacks is None:
                    fallbacks = self.fallbacks(event)
                known = fallbacks.get(key)
            if known is not None:
                needed[key] = known
        return needed

    def _levels(self, event: Event | None) -> PowerLevels:
        event_id = None if event is None else event.event_id
        levels = self._parsed.get(event_id)
        if levels is None:
            levels = power_levels_of(self._version, self._create, event)
            if len(self._parsed) >= _MAX_PARSED:
                del self._parsed[next(iter(self._parsed))]
            self._parsed[event_id] = levels
        return levels
