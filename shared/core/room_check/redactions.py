"""Checks of redactions: the redacted events, and the redactions that apply. Spec: rooms/v3, "Handling redactions"."""

from dataclasses import dataclass

from shared.core.event_auth import may_apply_redaction
from shared.core.room_check.findings import Findings
from shared.core.room_check.line import State
from shared.core.room_check.rules import Rules
from shared.core.room_check.stored_room import ACCEPTED, Node, StoredRoom


@dataclass(frozen=True, slots=True)
class _Redaction:
    """An accepted redaction of a stored event. applies: None if it depends on the state considered."""

    node: Node
    target: Node
    applies: bool | None

    @property
    def came_later(self) -> bool:
        """True if the target was certainly stored before the redaction."""
        target, node = self.target, self.node
        return target.writer == node.writer and target.position < node.position


class Redactions:
    """The redactions of a room, collected during its replay."""

    def __init__(self, room: StoredRoom, rules: Rules, findings: Findings) -> None:
        self._room = room
        self._rules = rules
        self._findings = findings
        self._by_target: dict[int, list[_Redaction]] = {}

    def note(self, node: Node, before: State | None) -> None:
        """Note an accepted event. before: the state before it, None if unknown."""
        event = node.event
        target = self._room.ids.get(event.redacts) if event.redacts is not None else None
        if target is None:
            return
        applies: bool | None = None
        answers = set()
        if before is not None:
            answers.add(self._may_apply(node, target, before))
        if node.ordinal is not None:
            answers.add(self._may_apply(node, target, State(node.ordinal, {})))
        if len(answers) == 1:
            applies = answers.pop()
        if event.state_key is not None and applies:
            applies = None  # clients never make one, and the spec has no rule for redactions that are state events
        self._by_target.setdefault(target.nid, []).append(_Redaction(node, target, applies))
        if target.redacted_by == node.nid:
            self._rules.redact(target.nid)

    def check(self) -> None:
        """Compare the noted redactions with the stored ones."""
        purged = self._room.is_purged()
        for node in self._room.nodes.values():
            found = self._by_target.get(node.nid, [])
            self._check_target(node, found)
            for redaction in found:
                self._check_redaction(redaction)
            if node.redacts_nid is None or (purged and node.redacts_nid not in self._room.nodes):
                continue
            redacts = self._room.nodes.get(node.redacts_nid)
            if redacts is None or redacts.event.event_id != node.event.redacts:
                self._findings.add(
                    "redacts", node.event.event_id, f"names {node.redacts_nid}, which it does not redact"
                )

    def _check_target(self, node: Node, found: list[_Redaction]) -> None:
        if node.redacted_by is not None:
            if all(redaction.node.nid != node.redacted_by or redaction.applies is False for redaction in found):
                self._findings.add("redacted_by", node.event.event_id, f"{node.redacted_by} does not redact it")
        elif node.status == ACCEPTED and any(redaction.applies and redaction.came_later for redaction in found):
            self._findings.add("redacted_by", node.event.event_id, "is not redacted, and a redaction applies")

    def _check_redaction(self, redaction: _Redaction) -> None:
        stored, target = redaction.node.redacts_nid, redaction.target
        if stored == target.nid and redaction.applies is False:
            self._findings.add("redacts", redaction.node.event.event_id, "names an event that it may not redact")
        elif stored is None and redaction.applies and redaction.came_later and target.status == ACCEPTED:
            self._findings.add("redacts", redaction.node.event.event_id, f"names none, it redacts {target.nid}")

    def _may_apply(self, node: Node, target: Node, state: State) -> bool:
        return may_apply_redaction(self._room.version, node.event, target.event, self._rules.levels(state))
