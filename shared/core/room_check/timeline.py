"""Checks of the places of events: live timeline, fetched history, gaps, and references to events."""

from collections.abc import Iterable

from shared.core.identifiers import EventId
from shared.core.room_check.findings import Findings
from shared.core.room_check.stored_room import ACCEPTED, OUTLIER, REJECTED, Node, StoredRoom


def check_timeline(room: StoredRoom, findings: Findings) -> None:
    """Check ordinals, positions, history, references and gaps."""
    live = room.live()
    for node in room.nodes.values():
        has_place = (node.ordinal is not None) + (node.anchor is not None and node.back is not None)
        if has_place != (node.status == ACCEPTED) or (node.anchor is None) != (node.back is None):
            place = f"ordinal {node.ordinal}, anchor {node.anchor}, back {node.back}"
            findings.add("place", node.event.event_id, f"status {node.status} with {place}")
    _check_ordinals(live, findings)
    _check_history(room, findings)
    _check_references(room, findings)
    _check_other_tables(room, findings)


def _check_ordinals(live: list[Node], findings: Findings) -> None:
    latest: dict[int, int] = {}
    expected = live[0].ordinal if live else 0
    for node in live:
        assert node.ordinal is not None and expected is not None
        if node.ordinal != expected:
            findings.add("ordinal", node.event.event_id, f"has ordinal {node.ordinal}, expected is {expected}")
        expected = node.ordinal + 1
        if node.position <= latest.get(node.writer, 0):
            before = latest[node.writer]
            findings.add("position", node.event.event_id, f"position {node.position} of {node.writer} after {before}")
        latest[node.writer] = node.position


def _check_history(room: StoredRoom, findings: Findings) -> None:
    by_anchor: dict[int, list[Node]] = {}
    for node in room.nodes.values():
        if node.anchor is not None and node.back is not None:
            by_anchor.setdefault(node.anchor, []).append(node)
    for anchor, nodes in by_anchor.items():
        nodes.sort(key=lambda node: node.back or 0)
        for expected, node in enumerate(nodes, 1):
            if node.back != expected:
                findings.add("history", node.event.event_id, f"is {node.back} before {anchor}, expected is {expected}")
                break
        for node in nodes:
            for named in _known(room, node.event.prev_event_ids):
                if named.anchor == anchor and (named.back or 0) < (node.back or 0):
                    findings.add("history", node.event.event_id, f"lies before its predecessor {named.event.event_id}")


def _check_references(room: StoredRoom, findings: Findings) -> None:
    purged = room.is_purged()
    for node in room.nodes.values():
        event = node.event
        _check_nids(room, node, "prev_nids", event.prev_event_ids, purged, findings)
        _check_nids(room, node, "auth_nids", event.auth_event_ids, purged, findings)
        for named in _known(room, event.prev_event_ids):
            if _is_before(node, named) and not node.gap:
                findings.add("order", event.event_id, f"has ordinal {node.ordinal}, its predecessor {named.ordinal}")
        if node.status == OUTLIER:
            continue
        missing = _missing(room, event.prev_event_ids)
        if missing and not (node.gap or purged or set(missing) <= _in_gap(room, node)):
            findings.add("missing_event", event.event_id, f"follows {missing[0]}")
        missing = _missing(room, event.auth_event_ids)
        if missing and node.status != REJECTED:
            findings.add("missing_event", event.event_id, f"has the auth event {missing[0]}")


def _check_nids(
    room: StoredRoom, node: Node, column: str, ids: Iterable[EventId], purged: bool, findings: Findings
) -> None:
    stored: tuple[int, ...] = getattr(node, column)
    named = list(_known(room, ids))
    known = {one.nid for one in named}
    # Later events could not be named by number. The order of arrival is certain only for events of one writer.
    sure = {one.nid for one in named if one.writer == node.writer and one.position < node.position}
    present = {nid for nid in stored if nid in room.nodes} if purged else set(stored)
    if not sure <= present <= known:
        findings.add(column, node.event.event_id, f"stored are {sorted(stored)}, the event names {sorted(known)}")


def _check_other_tables(room: StoredRoom, findings: Findings) -> None:
    ordinals = {node.ordinal for node in room.nodes.values()}
    for anchor, missing in room.gaps.items():
        if anchor not in ordinals:
            findings.add("gap", None, f"is before ordinal {anchor}, which no event has")
        for event_id in missing:
            if _is_here(room, event_id):
                findings.add("gap", event_id, f"is stored, but listed as missing before ordinal {anchor}")
    for event_id, nid in room.awaited:
        redaction = room.nodes.get(nid)
        if _is_here(room, event_id):
            findings.add("awaited_redaction", event_id, f"is stored, so its redaction {nid} must not be awaited")
        elif redaction is None or redaction.event.redacts != event_id:
            findings.add("awaited_redaction", event_id, f"event {nid} is no redaction of it")
    for event_id in room.transactions:
        if event_id not in room.ids and not room.is_purged():
            findings.add("transaction", event_id, "is the answer to a transaction, but is not stored")


def _known(room: StoredRoom, ids: Iterable[EventId]) -> Iterable[Node]:
    return (room.ids[event_id] for event_id in ids if event_id in room.ids)


def _missing(room: StoredRoom, ids: Iterable[EventId]) -> list[EventId]:
    return [event_id for event_id in ids if event_id not in room.ids]


def _is_here(room: StoredRoom, event_id: EventId) -> bool:
    node = room.ids.get(event_id)
    return node is not None and node.status != OUTLIER


def _is_before(node: Node, named: Node) -> bool:
    return node.ordinal is not None and named.ordinal is not None and node.ordinal <= named.ordinal


def _in_gap(room: StoredRoom, node: Node) -> set[str]:
    anchor = node.anchor if node.ordinal is None else node.ordinal
    return set(room.gaps.get(anchor, ())) if anchor is not None else set()
