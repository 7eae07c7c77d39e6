"""The findings of a room check: their kinds, the advice for each, and a list of limited length."""

from dataclasses import dataclass

from shared.core.identifiers import EventId

#: The limit per kind and room; further findings are counted. A broken room must not fill a screen or memory.
MAX_OF_A_KIND = 50

_REPORT = "Keep a copy of the database and report this as a fault of Skep."
_REBUILD = (
    "Let another process take the room: restart its persister. If the finding stays, report it as a fault of Skep."
)

#: kind -> advice for the operator.
KINDS: dict[str, str] = {
    "json": "The stored event is no event of its room version: the row was damaged. Restore it from a backup.",
    "event_id": "The event's hash is not its id: the row was damaged. Restore it from a backup.",
    "content_hash": "The event's content is not what its server hashed: the row was damaged. Restore it from a backup.",
    "column": "A column of `events` differs from the event's JSON; the JSON is right. " + _REPORT,
    "signature": "An event of a local user lacks this server's signature: the row was damaged, or a key is missing in "
    "the configuration (signing.old_keys).",
    "room_row": "The row in `rooms` differs from the room's create event. " + _REPORT,
    "create": "The room's create event is missing, so nothing else can be checked. Restore it from a backup.",
    "place": "Accepted events have exactly one place, all others none. " + _REPORT,
    "ordinal": "The live timeline has a hole or a double place. " + _REPORT,
    "position": "Positions of a writer do not ascend in the room's order, so readers saw another order. " + _REPORT,
    "missing_event": "A named event is not stored, and no gap accounts for it. " + _REPORT,
    "prev_nids": "`prev_nids` differs from the event's prev_events. " + _REPORT,
    "auth_nids": "`auth_nids` differs from the event's auth_events. " + _REPORT,
    "order": "An event is stored before one that it follows. " + _REPORT,
    "circle": "Events follow each other in a circle. " + _REPORT,
    "history": "The places of fetched history have a hole, or contradict the graph. " + _REPORT,
    "gap": "A gap lists an event that is stored, or its anchor does not exist. " + _REPORT,
    "extremities": "The room's forward extremities are not the events without a successor. " + _REBUILD,
    "state_before": "The state stored before an event is not what the graph gives. " + _REPORT,
    "line": "The room's state after an event is not what the graph gives. " + _REPORT,
    "line_row": "A row of `state_changes` contradicts the rows or events around it. " + _REPORT,
    "resolved": "`resolved` does not match the event's change of the state. " + _REPORT,
    "replaces": "`replaces_nid` is not the event that was replaced in the state. " + _REPORT,
    "current_state": "`current_state` is not the end of `state_changes`. " + _REPORT,
    "membership": "`memberships` does not match the room's state. " + _REPORT,
    "auth": "The rules forbid an event that was let in. " + _REPORT,
    "rejected_auth_event": "An accepted event names a rejected one as auth event. " + _REPORT,
    "rejected_without_reason": "The rules allow an event that was rejected. " + _REPORT,
    "redacted_by": "`redacted_by` is not a redaction that applies, or is missing although one applies. " + _REPORT,
    "redacts": "`redacts_nid` is not the event that the redaction applies to. " + _REPORT,
    "awaited_redaction": "An event with an awaited redaction is stored, or the redaction is none. " + _REPORT,
    "transaction": "A client's transaction names an event that is not stored. " + _REPORT,
    "push_counters": "The unread totals of the events do not add up. Unread counts of the room are wrong until its "
    "members have read it. " + _REPORT,
    "snapshot": "A snapshot breaks the rule for parents, or names an event that is not stored. " + _REPORT,
    "unused_snapshot": "Nothing needs this snapshot; it only takes space.",
    "too_big": "The room has more events than a check accepts. Nothing of it was checked.",
}

#: Kinds that are notes, not disagreements.
NOTES = frozenset({"unused_snapshot", "too_big"})


@dataclass(frozen=True, slots=True)
class Finding:
    """A disagreement between the stored data and the room's event graph.

    kind: one of KINDS.
    event_id: None if it is about the room.
    detail: the expected and the stored value, without any event's content.
    """

    kind: str
    event_id: EventId | None
    detail: str

    @property
    def is_note(self) -> bool:
        """True if it is a note, not a disagreement."""
        return self.kind in NOTES

    @property
    def advice(self) -> str:
        """The advice for the operator."""
        return KINDS[self.kind]


class Findings:
    """The findings of one room, at most MAX_OF_A_KIND of each kind."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._counts: dict[str, int] = {}

    def add(self, kind: str, event_id: EventId | None, detail: str) -> None:
        """Add a finding. Raises KeyError for an unknown kind."""
        KINDS[kind]
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= MAX_OF_A_KIND:
            self._found.append(Finding(kind, event_id, detail))

    def all(self) -> list[Finding]:
        """Return the findings in order, and for each kind over its limit the number of further ones."""
        more = [
            Finding(kind, None, f"and {count - MAX_OF_A_KIND} more of this kind")
            for kind, count in self._counts.items()
            if count > MAX_OF_A_KIND
        ]
        return [*self._found, *more]
