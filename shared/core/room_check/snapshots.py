"""Checks of the stored snapshots: their parents, their use, and the state that each represents."""

from collections.abc import Mapping

from shared.core.identifiers import EventId
from shared.core.room_check.findings import Findings
from shared.core.room_check.line import Line, State
from shared.core.room_check.stored_room import Node, StateKey, StoredRoom
from shared.core.state_snapshots import Snapshot, parent_steps


class Snapshots:
    """The snapshots of a room. Snapshots that break a rule represent no state."""

    def __init__(self, room: StoredRoom, line: Line, findings: Findings) -> None:
        self._nodes: Mapping[int, Node] = room.nodes
        self._line = line
        self._by_nid = {snapshot.nid: snapshot for snapshot in room.snapshots}
        self._broken: set[int] = set()
        for snapshot in room.snapshots:
            fault = self._fault(snapshot)
            if fault:
                self._broken.add(snapshot.nid)
                findings.add("snapshot", self._name(snapshot.nid), f"snapshot {snapshot.nid} {fault}")
        self._check_use(room, findings)

    def state(self, nid: int) -> State | None:
        """Return the state of a snapshot, or None if a snapshot of its walk is missing or broken."""
        walk: list[Snapshot] = []
        step: int | None = nid
        while step is not None:
            snapshot = self._by_nid.get(step)
            if snapshot is None or step in self._broken:
                return None
            walk.append(snapshot)  # the walk ends, since steps decrease from child to parent unless broken
            step = snapshot.parent
        base = walk[-1].base
        assert base is not None, "a root without a base is broken"
        changes: dict[StateKey, int | None] = {}
        for snapshot in reversed(walk):
            for numbers, leaves in ((snapshot.removed, True), (snapshot.added, False)):
                for number in numbers:
                    key = self._nodes[number].key
                    assert key is not None, "a snapshot that names no state event is broken"
                    changes[key] = None if leaves else number
        return State(base, {key: held for key, held in changes.items() if held != self._line.at(key, base)})

    def _fault(self, snapshot: Snapshot) -> str:
        for number in (*snapshot.added, *snapshot.removed):
            node = self._nodes.get(number)
            if node is None or node.key is None:
                return f"names {number}, which is no state event here"
        if snapshot.parent is None:
            if snapshot.base is None:
                return "has neither parent nor base"
            return f"is a root at step {snapshot.steps}" if snapshot.steps else ""
        parent = self._by_nid.get(snapshot.parent)
        if parent is None:
            return f"has the parent {snapshot.parent}, which is not stored"
        wanted = parent_steps(snapshot.steps)
        if snapshot.steps < 1 or parent.steps != wanted:
            return f"is step {snapshot.steps}, its parent is step {parent.steps} instead of {wanted}"
        return ""

    def _check_use(self, room: StoredRoom, findings: Findings) -> None:
        used = {node.state_nid for node in room.nodes.values()}
        for node in room.nodes.values():
            if node.state_nid is not None and node.state_nid not in self._by_nid:
                findings.add("snapshot", node.event.event_id, f"its snapshot {node.state_nid} is not stored")
        used.update(snapshot.parent for snapshot in room.snapshots)
        for nid in self._by_nid.keys() - used:
            findings.add("unused_snapshot", self._name(nid), f"snapshot {nid}")

    def _name(self, nid: int) -> EventId | None:
        node = self._nodes.get(nid)
        return None if node is None else node.event.event_id
