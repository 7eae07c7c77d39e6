"""The replay: checks every event again, after those that it follows, in the state that the graph gives.

States are kept as differences from the stored line, so that a linear room of any size costs a few look-ups per event.
A difference between graph and storage is reported where it first appears. The replay continues with the state from the
graph.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence

from shared.core.events import Event
from shared.core.room_check.findings import Findings
from shared.core.room_check.line import Line, State
from shared.core.room_check.redactions import Redactions
from shared.core.room_check.resolution import Differences, Resolution
from shared.core.room_check.rules import Form, Rules, is_known
from shared.core.room_check.snapshots import Snapshots
from shared.core.room_check.stored_room import ACCEPTED, OUTLIER, REJECTED, SOFT_FAILED, Node, StateKey, StoredRoom

_SHOWN_KEYS = 3


class Replay:
    """The replay of one room. wrong_line: the wrong keys at the end of the line: key -> value by the graph."""

    def __init__(self, room: StoredRoom, line: Line, create: Event, findings: Findings) -> None:
        self._room = room
        self._line = line
        self._create = create
        self._findings = findings
        self._rules = Rules(room, line, create)
        self._redactions = Redactions(room, self._rules, findings)
        self._snapshots = Snapshots(room, line, findings)
        self._resolution = Resolution(room, line, create, self._rules)
        self._history_after: dict[str, int] = {}  # event -> least anchor of the history that follows it
        for node in room.nodes.values():
            if node.anchor is not None and node.status == ACCEPTED:
                for event_id in node.event.prev_event_ids:
                    self._history_after[event_id] = min(node.anchor, self._history_after.get(event_id, node.anchor))
        self._children = Counter(
            event_id for node in room.nodes.values() for event_id in set(node.event.prev_event_ids)
        )
        self._after: dict[str, State] = {}
        self._ends: dict[str, State | None] = {}  # forward extremities so far
        self._reported: set[tuple[StateKey, int | None, int | None]] = set()
        self.wrong_line: dict[StateKey, int | None] = {}

    def run(self) -> None:
        """Replay all events."""
        done = 0
        for node in _in_graph_order(self._room):
            done += 1
            if node.status != OUTLIER:
                self._step(node)
        if done < len(self._room.nodes):
            self._findings.add("circle", None, f"{len(self._room.nodes) - done} events are in a circle, or follow one")
        self._redactions.check()

    # -- one event

    def _step(self, node: Node) -> None:
        before = self._compared_before(node)
        self._check_rules(node, before)
        after = before
        if before is not None and node.key is not None and node.status in (ACCEPTED, SOFT_FAILED):
            after = before.changed(self._line, node.key, node.nid)
        self._keep(node, after)
        if node.ordinal is not None:
            self._check_line(node)
        if node.status == ACCEPTED:
            self._redactions.note(node, before)

    def _compared_before(self, node: Node) -> State | None:
        """Return the state before an event: by the graph if possible, else as stored. Report differences."""
        stored = self._stored_before(node)
        before = given = self._state_before(node, Form.THEN)
        if node.gap and stored is not None:
            return stored  # from another server; later events of the gap need not lead to the same state
        if stored is None or before is None:
            return before or stored
        differences = self._resolution.differences(before, stored)
        for form in self._rules.forms[1:]:
            if not differences or given is None:
                break
            given = self._state_before(node, form)
            if given is not None and not self._resolution.differences(given, stored):
                return given
        self._report("state_before", node, differences)
        return before

    def _state_before(self, node: Node, form: Form) -> State | None:
        """Return the state before an event by the graph, or None if it cannot be known."""
        named = node.event.prev_event_ids
        if not named and node.event is self._create:
            base = node.ordinal or 0
            absent: dict[StateKey, int | None] = {
                key: None for key in self._line.known_keys() if self._line.at(key, base) is not None
            }
            return State(base, absent)
        states = [self._after.get(event_id) for event_id in dict.fromkeys(named)]
        known = [state for state in states if state is not None]
        if not known or len(known) < len(states):
            return None
        if node.ordinal is not None:
            for state in known:
                state.move(self._line, node.ordinal)
        return self._resolution.resolve(known, form)

    def _stored_before(self, node: Node) -> State | None:
        if node.state_nid is not None:
            return self._snapshots.state(node.state_nid)
        return None if node.ordinal is None else State(node.ordinal, {})

    def _check_rules(self, node: Node, before: State | None) -> None:
        verdict = self._rules.verdict(node, before)
        event_id = node.event.event_id
        if node.status == REJECTED:
            if verdict.passed and before is not None and not self._rules.needs_other_signature(node):
                self._findings.add("rejected_without_reason", event_id, "its auth events and the state allow it")
        elif self._rules.cites_rejected(node):
            self._findings.add("rejected_auth_event", event_id, "one of its auth events was rejected")
        elif is_known(verdict) and not verdict.passed:
            self._findings.add("auth", event_id, f"check {verdict.check}, rule {verdict.rule}: {verdict.reason}")

    def _keep(self, node: Node, after: State | None) -> None:
        """Keep the state after an event until all of its followers are replayed."""
        event_id = node.event.event_id
        if after is not None and self._children[event_id]:
            self._after[event_id] = after
        for named in set(node.event.prev_event_ids):
            self._children[named] -= 1
            if not self._children[named]:
                self._after.pop(named, None)
            if node.ordinal is not None:
                self._ends.pop(named, None)
        if node.ordinal is not None:
            self._ends[event_id] = after

    # -- the line

    def _check_line(self, node: Node) -> None:
        """Compare the line after a live event with the resolution of all branches, and check its rows."""
        assert node.ordinal is not None
        former = self.wrong_line
        states = [state for state in self._ends.values() if state is not None]
        # Fetched history arrives some time after its anchor. It may have followed these extremities.
        is_sure = len(states) == len(self._ends) and not any(
            self._history_after.get(event_id, node.ordinal + 1) <= node.ordinal for event_id in self._ends
        )
        if is_sure:
            self._compare_line(node, states)
        if self.wrong_line == former:
            self._check_line_rows(node)

    def _compare_line(self, node: Node, states: Sequence[State]) -> None:
        assert node.ordinal is not None
        stored = State(node.ordinal + 1, {})
        for state in states:
            state.move(self._line, stored.base)
        differences = self._resolution.differences(self._resolution.resolve(states, Form.THEN), stored)
        for form in self._rules.forms[1:]:
            if differences and not self._resolution.differences(self._resolution.resolve(states, form), stored):
                differences = {}
        self.wrong_line = {key: own for key, (own, _) in differences.items()}
        self._report("line", node, differences)

    def _check_line_rows(self, node: Node) -> None:
        assert node.ordinal is not None
        event_id = node.event.event_id
        rows = self._line.changes(node.ordinal, node.ordinal + 1)
        replaced: int | None = None
        for row in rows:
            key = (row.type, row.state_key)
            held = None if row.event_nid is None else self._room.nodes.get(row.event_nid)
            if row.event_nid is not None and (held is None or held.key != key):
                self._findings.add("line_row", event_id, f"{_name(key)} is set to {row.event_nid}, not such an event")
            if key not in self.wrong_line and row.prev_nid != self._line.at(key, node.ordinal):
                was = self._line.at(key, node.ordinal)
                self._findings.add("line_row", event_id, f"{_name(key)} was {was}, prev_nid is {row.prev_nid}")
            if (row.writer, row.position) != (node.writer, node.position):
                self._findings.add("line_row", event_id, f"{_name(key)} has another position than its event")
            if row.event_nid == node.nid:
                replaced = self._line.at(key, node.ordinal)
        is_usual = [row.event_nid for row in rows] == ([] if node.key is None else [node.nid])
        if node.resolved is is_usual:
            self._findings.add("resolved", event_id, f"is {node.resolved}, with {len(rows)} changes of the state")
        if node.replaces_nid != replaced and node.key not in self.wrong_line:
            self._findings.add("replaces", event_id, f"is {node.replaces_nid}, expected is {replaced}")

    def _report(self, kind: str, node: Node, differences: Differences) -> None:
        """Report differences between graph and storage that have not been reported before."""
        new = {key: pair for key, pair in differences.items() if (key, *pair) not in self._reported}
        if not new:
            return
        self._reported.update((key, *pair) for key, pair in new.items())
        shown = [f"{_name(key)}: graph {own}, stored {other}" for key, (own, other) in sorted(new.items())]
        more = f", and {len(new) - _SHOWN_KEYS} more" if len(new) > _SHOWN_KEYS else ""
        self._findings.add(kind, node.event.event_id, "; ".join(shown[:_SHOWN_KEYS]) + more)


def _in_graph_order(room: StoredRoom) -> Iterator[Node]:
    """Yield the events, each after those that it follows, and live ones by ordinal as far as possible.

    Events in a circle, and events that follow one, are left out.
    """
    followers: dict[str, list[Node]] = {}
    waits: dict[int, int] = {}
    ready: list[tuple[int, int]] = []
    for node in room.nodes.values():
        named = {event_id for event_id in node.event.prev_event_ids if event_id in room.ids}
        waits[node.nid] = len(named)
        for event_id in named:
            followers.setdefault(event_id, []).append(node)
        if not named:
            heapq.heappush(ready, (node.ordinal or 0, node.nid))
    while ready:
        _, nid = heapq.heappop(ready)
        node = room.nodes[nid]
        yield node
        for follower in followers.pop(node.event.event_id, ()):
            waits[follower.nid] -= 1
            if not waits[follower.nid]:
                heapq.heappush(ready, (follower.ordinal or 0, follower.nid))


def _name(key: StateKey) -> str:
    return f"{key[0]} {key[1]!r}"
