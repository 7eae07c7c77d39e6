"""A second opinion on stored rooms: replays a room's event graph and says where what is stored disagrees with it.

It shares no code with what writes rooms, only the rules of the core. Memory grows with the room: 1 to 2 KiB for an
event, more for one whose content the rules read; `contents.py` keeps no other content.

Not replayed, because what it hung on is not stored: why an event was soft-failed (the current state at that time, the
policy server), rejections for another server's signature, and the state before events of which predecessors are, or
were, missing: there the stored one is taken.
"""

from shared.core.room_check.contents import Contents
from shared.core.room_check.ends import check_current_state, check_extremities, check_memberships
from shared.core.room_check.findings import KINDS, Finding, Findings
from shared.core.room_check.line import Line
from shared.core.room_check.places import check_places
from shared.core.room_check.replay import Replay
from shared.core.room_check.stored_room import REJECTED, EventColumns, LineRow, MembershipRow, Node, StoredRoom

__all__ = [
    "KINDS",
    "Contents",
    "EventColumns",
    "Finding",
    "Findings",
    "LineRow",
    "MembershipRow",
    "StoredRoom",
    "check_stored_room",
]


def check_stored_room(room: StoredRoom, findings: Findings) -> None:
    """Check a room whose rows have all been taken in (`Contents.take`). Takes 0.03 to 0.1 ms per event.

    A room with damaged events is not looked at any further: what is missing would be found at every turn.
    """
    if room.damaged or not (room.line or room.extremities or room.live()):
        return  # damaged, or a room of which we have no more than outliers
    create = _create_of(room)
    if create is None:
        findings.add("create", None, "no event of this type that was not rejected")
        return
    if create.event.room_id != room.room_id:
        findings.add("room_row", create.event.event_id, f"it makes the room {create.event.room_id}")
    named = create.event.content.get("room_version", "1")
    if named != room.version.name:
        findings.add("room_row", create.event.event_id, f"the room's version is {named!r}")
    check_places(room, findings)
    line = Line(room.line)
    replay = Replay(room, line, create.event, findings)
    replay.run()
    _check_line_places(room, line, findings)
    check_extremities(room, findings)
    end = 1 + max([node.ordinal or 0 for node in room.nodes.values()] + [row.ordinal for row in room.line])
    check_current_state(room, line, replay.wrong_line, end, findings)
    check_memberships(room, line, replay.wrong_line, end, findings)


def _create_of(room: StoredRoom) -> Node | None:
    """Return the create event of the current state, else the first one."""
    nid = room.current_state.get(("m.room.create", ""))
    if nid is not None and nid in room.nodes:
        return room.nodes[nid]
    found = [node for node in room.nodes.values() if node.key == ("m.room.create", "") and node.status != REJECTED]
    return min(found, key=lambda node: (node.event.depth, node.nid), default=None)


def _check_line_places(room: StoredRoom, line: Line, findings: Findings) -> None:
    """Changes before the first live event are what a purge, or a late join, has left of the line."""
    ordinals = {node.ordinal for node in room.nodes.values() if node.ordinal is not None}
    first = min(ordinals, default=0)
    for row in line.rows:
        if row.ordinal >= first and row.ordinal not in ordinals:
            findings.add("line_row", None, f"{row.type} {row.state_key!r} changes at {row.ordinal}, no event's place")
