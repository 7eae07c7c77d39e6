"""Authorization of stored events: by their own auth events, and by the state before them.

Redactions remove content from state that had allowed other events: power levels lose `invite`, join rules `allow`. So
a redacted event has two forms. Which one counted when another event arrived is known for live events only. For others,
an event counts as allowed, or as forbidden, if one of the forms makes it so.
"""

from enum import Enum

from shared.core.event_auth import auth_types_for
from shared.core.event_checks import Outcome, Verdict, check_auth_events_of, check_state_before
from shared.core.events import Event
from shared.core.events.readers import PowerLevels, authorising_user, power_levels_of
from shared.core.identifiers import EventId
from shared.core.room_check.line import Line, State
from shared.core.room_check.stored_room import REJECTED, Node, StateKey, StoredRoom

_POWER_LEVELS: StateKey = ("m.room.power_levels", "")
#: Cached verdicts and power levels. Most messages have the same sender, auth events and state as others.
_MAX_KEPT = 4096


class Form(Enum):
    """The form of redacted events that counts."""

    THEN = "as it was then"
    ORIGINAL = "before redactions"
    REDACTED = "after redactions"


class Rules:
    """The rules of one room, for one event after another. create: the room's create event."""

    def __init__(self, room: StoredRoom, line: Line, create: Event) -> None:
        self._room = room
        self._line = line
        self._create = create
        self._rejected = {node.event.event_id for node in room.nodes.values() if node.status == REJECTED}
        self._redacted: set[int] = set()
        self.forms = [Form.THEN]
        if any(node.redacted is not None for node in room.nodes.values()):
            self.forms += [Form.ORIGINAL, Form.REDACTED]
        self._levels: dict[tuple[int | None, bool], PowerLevels] = {}
        self._verdicts: dict[tuple[object, ...], Verdict] = {}

    def redact(self, nid: int) -> None:
        """Use the redacted form of this event from now on."""
        if nid not in self._redacted:
            self._redacted.add(nid)
            self._verdicts.clear()

    def find(self, event_id: EventId, form: Form = Form.THEN) -> Event | None:
        """Return an event in the form that counts."""
        node = self._room.ids.get(event_id)
        return None if node is None else self._form_of(node, form)

    def is_rejected(self, event_id: EventId) -> bool:
        return event_id in self._rejected

    def verdict(self, node: Node, before: State | None) -> Verdict:
        """Return the first verdict of checks 4 and 5 that is not ACCEPT, else the last one. DROP: it is not known.

        before: the state before the event. If None, only the auth events are checked.
        If the verdict depends on the form of redacted events, the one that fits the event's status counts.
        """
        wants_pass = node.status != REJECTED
        verdict = self._verdict(node, before, Form.THEN)
        for form in self.forms[1:]:
            if verdict.passed is wants_pass:
                break
            verdict = self._verdict(node, before, form)
        return verdict

    def cites_rejected(self, node: Node) -> bool:
        """Return True if one of the auth events was rejected."""
        return any(event_id in self._rejected for event_id in node.event.auth_event_ids)

    def needs_other_signature(self, node: Node) -> bool:
        """Return True if another server must have signed. A rejection may be for that reason."""
        return node.event.type == "m.room.member" and authorising_user(node.event) is not None

    def levels(self, state: State) -> PowerLevels:
        """Return the power levels of a state."""
        return self._levels_of(state.get(self._line, _POWER_LEVELS), Form.THEN)

    def _verdict(self, node: Node, before: State | None, form: Form) -> Verdict:
        event = node.event
        version = self._room.version
        keys = auth_types_for(
            version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
        )
        nids = {} if before is None else {key: before.get(self._line, key) for key in keys}
        memo: tuple[object, ...] | None = None
        if event.state_key is None and event.type != "m.room.redaction":
            memo = (event.type, event.sender, event.auth_event_ids, *nids.values(), form, before is None)
            known = self._verdicts.get(memo)
            if known is not None:
                return known
        named = [cited for event_id in event.auth_event_ids if (cited := self.find(event_id, form))]
        verdict = check_auth_events_of(version, event, named, rejected=self._rejected, create=self._create)
        if verdict.passed and before is not None:
            state = {
                key: self._form_of(self._room.nodes[nid], form)
                for key, nid in nids.items()
                if nid is not None and nid in self._room.nodes
            }
            levels = self._levels_of(before.get(self._line, _POWER_LEVELS), form)
            verdict = check_state_before(version, event, state, self._create, power_levels=levels)
        if memo is not None:
            if len(self._verdicts) >= _MAX_KEPT:
                self._verdicts.clear()
            self._verdicts[memo] = verdict
        return verdict

    def _form_of(self, node: Node, form: Form) -> Event:
        if node.redacted is None or form is Form.ORIGINAL:
            return node.event
        return node.redacted if form is Form.REDACTED or node.nid in self._redacted else node.event

    def _levels_of(self, nid: int | None, form: Form) -> PowerLevels:
        node = None if nid is None else self._room.nodes.get(nid)
        event = None if node is None else self._form_of(node, form)
        key = (nid, node is not None and event is node.redacted)
        levels = self._levels.get(key)
        if levels is None:
            if len(self._levels) >= _MAX_KEPT // 64:
                self._levels.clear()
            levels = self._levels[key] = power_levels_of(self._room.version, self._create, event)
        return levels


def is_known(verdict: Verdict) -> bool:
    """Return True if the event could be checked. DROP means that an auth event is missing."""
    return verdict.outcome is not Outcome.DROP
