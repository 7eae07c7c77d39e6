"""Checks of the room as it is now: forward extremities, current state, memberships."""

from collections.abc import Mapping

from shared.core.events.readers import membership_of
from shared.core.identifiers import UserId
from shared.core.room_check.findings import Findings
from shared.core.room_check.line import Line
from shared.core.room_check.stored_room import ACCEPTED, MembershipRow, StateKey, StoredRoom

_MEMBER = "m.room.member"


def check_extremities(room: StoredRoom, findings: Findings) -> None:
    """Check that the extremities are the live events that no accepted event names.

    Rejected and soft-failed events do not count as following an event, since new events must not be built on them.
    Spec: server-server API, "Rejection", "Soft failure".
    """
    named = {event_id for n in room.nodes.values() if n.status == ACCEPTED for event_id in n.event.prev_event_ids}
    ends = {
        nid
        for nid, node in room.nodes.items()
        if node.ordinal is not None and node.status == ACCEPTED and node.event.event_id not in named
    }
    stored = room.extremities
    if stored is None:
        if ends:
            findings.add("extremities", None, f"none are stored, expected are {sorted(ends)[:20]}")
    elif set(stored) != ends or len(set(stored)) < len(stored):
        findings.add("extremities", None, f"stored are {sorted(stored)[:20]}, expected are {sorted(ends)[:20]}")


def check_current_state(
    room: StoredRoom, line: Line, wrong: Mapping[StateKey, int | None], end: int, findings: Findings
) -> None:
    """Check that the current state is the end of the line.

    wrong: keys that have been reported already.
    end: an ordinal after the last change.
    """
    for key in line.known_keys() | room.current_state.keys():
        expected, stored = line.at(key, end), room.current_state.get(key)
        if stored != expected and key not in wrong:
            node = room.nodes.get(stored if stored is not None else expected or 0)
            name = f"{key[0]} {key[1]!r}: stored is {stored}, the line ends with {expected}"
            findings.add("current_state", None if node is None else node.event.event_id, name)


def check_memberships(
    room: StoredRoom, line: Line, wrong: Mapping[StateKey, int | None], end: int, findings: Findings
) -> None:
    """Check that each user who was ever in the line has the right row. wrong, end: as for `check_current_state`."""
    last_rows = {UserId(row.state_key): row for row in line.rows if row.type == _MEMBER}
    for user_id in {*last_rows, *room.memberships}:
        key = (_MEMBER, user_id)
        expected = _expected(room, line, user_id, end)
        stored = room.memberships.get(user_id)
        if stored != expected and key not in wrong:
            node = None if stored is None else room.nodes.get(stored.event_nid)
            detail = f"{user_id}: stored is {_shown(stored)}, the room's state has {_shown(expected)}"
            findings.add("membership", None if node is None else node.event.event_id, detail)


def _expected(room: StoredRoom, line: Line, user_id: UserId, end: int) -> MembershipRow | None:
    key = (_MEMBER, user_id)
    ordinal = line.last_change(key)
    if not ordinal:
        return None
    nid = line.at(key, end)
    if nid is None:
        # State resolution removed the membership. The user counts as having left, without a new event.
        former = line.at(key, ordinal)
        return MembershipRow("leave", former or 0, user_id, ordinal)
    node = room.nodes.get(nid)
    if node is None:
        return None
    return MembershipRow(membership_of(node.event) or "leave", nid, node.event.sender, ordinal)


def _shown(row: MembershipRow | None) -> str:
    return "nothing" if row is None else f"{row.membership} by {row.sender} (event {row.event_nid}, at {row.ordinal})"
