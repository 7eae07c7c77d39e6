"""What a check of a room has found: kinds, what to do about each, and a list that stays short."""

from dataclasses import dataclass

#: Of one kind in one room; the rest is counted. A room that is wrong everywhere must not fill a screen or memory.
MAX_OF_A_KIND = 50

_REPORT = "Keep a copy of the database and report this as a fault of Skep."
_REBUILD = (
    "Let another process take the room (restart its persister). If the finding stays, report it as a fault of Skep."
)

#: kind -> what an operator does about it.
KINDS: dict[str, str] = {
    "json": "The stored event is no event of its room version: the row was damaged. Restore it from a backup.",
    "event_id": "The event's hash is not its id: the row was damaged. Restore it from a backup.",
    "content_hash": "The event's content is not what its server hashed: the row was damaged. Restore it from a backup.",
    "column": "A column of `events` differs from the event's JSON; the JSON is right. " + _REPORT,
    "signature": "An event of our own user lacks our signature: the row was damaged, or a key is missing in the "
    "configuration (signing.old_keys).",
    "room_row": "The row in `rooms` differs from the room's create event. " + _REPORT,
    "create": "The room's create event is missing, so nothing else of it can be checked. Restore it from a backup.",
    "place": "Accepted events have exactly one place, all others none. " + _REPORT,
    "ordinal": "The live timeline has a hole or a double place. " + _REPORT,
    "position": "Positions of a writer do not ascend with the room's order: readers saw another order. " + _REPORT,
    "missing_event": "An event is named and not stored, and no gap says so. " + _REPORT,
    "prev_nids": "`prev_nids` differs from the event's prev_events. " + _REPORT,
    "auth_nids": "`auth_nids` differs from the event's auth_events. " + _REPORT,
    "order": "An event stands before one that it follows. " + _REPORT,
    "circle": "Events follow each other in a circle. " + _REPORT,
    "history": "Places of fetched history have a hole, or contradict the graph. " + _REPORT,
    "gap": "A gap names what is here, or stands before an event that does not exist. " + _REPORT,
    "extremities": "The room's forward extremities are not the events that nothing follows. " + _REBUILD,
    "state_before": "The state stored before an event is not what the graph gives. " + _REPORT,
    "line": "The room's state after an event is not what the graph gives. " + _REPORT,
    "line_row": "A row of `state_changes` contradicts the rows or events around it. " + _REPORT,
    "resolved": "`resolved` does not tell how the event changed the state. " + _REPORT,
    "replaces": "`replaces_nid` is not the event whose place in the state was taken. " + _REPORT,
    "current_state": "`current_state` is not where `state_changes` ends. " + _REPORT,
    "membership": "`memberships` is not what the room's state says. " + _REPORT,
    "auth": "The rules forbid an event that was let in. " + _REPORT,
    "rejected_auth_event": "An accepted event names a rejected one as auth event. " + _REPORT,
    "rejected_without_reason": "The rules allow an event that was rejected. " + _REPORT,
    "redacted_by": "`redacted_by` is not a redaction that applies, or one that applies is not there. " + _REPORT,
    "redacts": "`redacts_nid` is not the event that the redaction applies to. " + _REPORT,
    "awaited_redaction": "A redaction is awaited by an event that is here, or is none. " + _REPORT,
    "transaction": "A client's transaction names an event that is not here. " + _REPORT,
    "push_counters": "What events count for unread counts does not add up: counts of the room are wrong until its "
    "members have read it. " + _REPORT,
    "snapshot": "A snapshot breaks the rule of its parents, or names what is not here. " + _REPORT,
    "unused_snapshot": "Nothing needs this snapshot; it only takes space.",
    "too_big": "The room has more events than a check takes; nothing of it was checked.",
}

#: Kinds that are no disagreement.
NOTES = frozenset({"unused_snapshot", "too_big"})


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where what is stored disagrees with the room's event graph.

    kind: of KINDS. event_id: of the event concerned, None where it is about the room. detail: what was expected and
    what is stored; never an event's content.
    """

    kind: str
    event_id: str | None
    detail: str

    @property
    def is_note(self) -> bool:
        """Whether it is no disagreement."""
        return self.kind in NOTES

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS[self.kind]


class Findings:
    """The findings of one room, at most MAX_OF_A_KIND of each kind."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._counts: dict[str, int] = {}

    def add(self, kind: str, event_id: str | None, detail: str) -> None:
        """Note a finding. Raises KeyError for a kind that KINDS lacks."""
        KINDS[kind]
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= MAX_OF_A_KIND:
            self._found.append(Finding(kind, event_id, detail))

    def all(self) -> list[Finding]:
        """Return the findings as they came, and for each kind with too many how many more there were."""
        more = [
            Finding(kind, None, f"and {count - MAX_OF_A_KIND} more of this kind")
            for kind, count in self._counts.items()
            if count > MAX_OF_A_KIND
        ]
        return [*self._found, *more]
