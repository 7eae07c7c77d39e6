"""State resolution for the replay, and comparison with stored states."""

from collections.abc import Mapping, Sequence

from shared.core.events import Event
from shared.core.room_check.line import Line, LineState, State
from shared.core.room_check.rules import Form, Rules
from shared.core.room_check.stored_room import StateKey, StoredRoom
from shared.core.state_resolution import resolve_overlays

#: Cached resolutions. Messages on the branches of a fork do not change its states.
_MAX_KEPT = 64

#: key -> (value by the graph, stored value), as event numbers.
Differences = dict[StateKey, tuple[int | None, int | None]]


class Resolution:
    """State resolution for one room. create: its create event."""

    def __init__(self, room: StoredRoom, line: Line, create: Event, rules: Rules) -> None:
        self._room = room
        self._line = line
        self._create = create
        self._rules = rules
        self._ids = {nid: node.event.event_id for nid, node in room.nodes.items()}
        self._kept: dict[tuple[frozenset[int], Form], tuple[list[State], State]] = {}

    def resolve(self, states: Sequence[State], form: Form) -> State:
        """Return the resolution of one or more states. It may be one of them. form: the form of redacted events."""
        distinct = list({id(state): state for state in states}.values())
        if len(distinct) == 1:
            return distinct[0]
        wanted = (frozenset(map(id, distinct)), form)
        known = self._kept.get(wanted)
        if known is not None:
            return known[1]
        base = distinct[0].base
        overlays = [state.move(self._line, base) for state in distinct]
        if all(overlay == overlays[0] for overlay in overlays):
            return distinct[0]
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        resolved = self._resolve(base, overlays, form)
        self._kept[wanted] = (distinct, resolved)  # keeps the states alive, so that their ids are not reused
        return resolved

    def differences(self, given: State, stored: State) -> Differences:
        """Return the differences between the state by the graph and the stored one."""
        keys = given.move(self._line, stored.base).keys() | stored.overlay.keys()
        pairs = {key: (given.get(self._line, key), stored.get(self._line, key)) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def _resolve(self, base: int, overlays: Sequence[Mapping[StateKey, int | None]], form: Form) -> State:
        ids, nodes = self._ids, self._room.ids
        given = [
            {key: None if nid is None else ids[nid] for key, nid in overlay.items() if nid is None or nid in ids}
            for overlay in overlays
        ]
        result = resolve_overlays(
            self._room.version,
            LineState(self._line, base, ids),
            given,
            lambda event_id: self._rules.find(event_id, form),
            rejected=self._rules.is_rejected,
            create=self._create,
        )
        return State(base, {key: None if event_id is None else nodes[event_id].nid for key, event_id in result.items()})
