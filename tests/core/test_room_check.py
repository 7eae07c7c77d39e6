"""The check of stored rooms: no findings in consistent rooms, and the right kind of finding for each changed row."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.core.events import parse_event, redact_pdu
from shared.core.identifiers import EventId, UserId
from shared.core.room_check import KINDS, LineRow, MembershipRow
from shared.core.room_check.findings import MAX_OF_A_KIND
from shared.core.room_versions import ROOM_VERSIONS
from shared.storage.events.batch import ACCEPTED, OUTLIER, REJECTED, SOFT_FAILED
from tests.core.rooms import KEY, VERSIONS
from tests.graph_rooms import ALICE, BOB, CAROL, GraphRoom, forked_room

Names = dict[str, EventId]


@pytest.mark.parametrize("version", VERSIONS)
def test_consistent_room_has_no_findings(version: str) -> None:
    room, names = forked_room(version)
    statuses = {name: room.row(event_id).status for name, event_id in names.items() if event_id in room.nids}
    assert (statuses["soft"], statuses["rejected"]) == (SOFT_FAILED, REJECTED)
    assert {name for name, status in statuses.items() if status == ACCEPTED} >= {"gap", "history", "branch", "merge"}
    assert max(snapshot.steps for snapshot in room.snapshots.values()) >= 2
    assert room.check({KEY.key_id: KEY.verify_key}) == []


def _set(name: str, **columns: Any) -> Callable[[GraphRoom, Names], None]:
    return lambda room, names: room.edit(names[name], **columns)


def _in_json(name: str, old: bytes, new: bytes) -> Callable[[GraphRoom, Names], None]:
    def edit(room: GraphRoom, names: Names) -> None:
        json = room.row(names[name]).json
        assert old in json
        room.edit(names[name], json=json.replace(old, new))

    return edit


def _line_row(room: GraphRoom, name: str, names: Names) -> int:
    nid = room.nids[names[name]]
    return next(index for index, row in enumerate(room.line) if row.event_nid == nid)


def _in_line(name: str, **columns: Any) -> Callable[[GraphRoom, Names], None]:
    def edit(room: GraphRoom, names: Names) -> None:
        index = _line_row(room, name, names)
        room.line[index] = room.line[index]._replace(**columns)

    return edit


def _drop_line_row(room: GraphRoom, names: Names) -> None:
    del room.line[_line_row(room, "avatar", names)]


def _strange_line_row(room: GraphRoom, names: Names) -> None:
    room.line.append(
        LineRow(
            type="m.room.canonical_alias", state_key="", ordinal=2, event_nid=None, prev_nid=None, writer=1, position=2
        )
    )


def _line_row_without_event(room: GraphRoom, names: Names) -> None:
    room.line.append(
        LineRow(
            type="m.room.canonical_alias", state_key="", ordinal=99, event_nid=None, prev_nid=None, writer=1, position=2
        )
    )


def _as_if_on_the_line(room: GraphRoom, names: Names) -> None:
    room.edit(names["branch"], state_nid=None)


def _snapshot(name: str, **fields: Any) -> Callable[[GraphRoom, Names], None]:
    def edit(room: GraphRoom, names: Names) -> None:
        nid = room.row(names[name]).state_nid
        assert nid is not None
        room.snapshots[nid] = room.snapshots[nid]._replace(**fields)

    return edit


def _add_unused_snapshot(room: GraphRoom, names: Names) -> None:
    some = next(iter(room.snapshots.values()))
    room.snapshots[1] = some._replace(nid=1, parent=None, base=1, steps=0, added=(), removed=())


def _drop_ends(room: GraphRoom, names: Names) -> None:
    room.ends = [names["merge"]]


def _add_soft_end(room: GraphRoom, names: Names) -> None:
    room.ends.append(names["soft"])


def _wrong_current_state(room: GraphRoom, names: Names) -> None:
    room.current["m.room.name", ""] = room.events[names["name"]]


def _missing_current_state(room: GraphRoom, names: Names) -> None:
    del room.current["m.room.avatar", ""]


def _wrong_membership(room: GraphRoom, names: Names) -> None:
    room.members[BOB] = room.members[BOB]._replace(membership="leave")


def _strange_member(room: GraphRoom, names: Names) -> None:
    room.members[UserId("@nobody:a.example")] = MembershipRow("join", 1, ALICE, 1)


def _wrong_transaction(room: GraphRoom, names: Names) -> None:
    room.transactions.append(EventId("$nothing:a.example"))


def _gap_of_a_known_event(room: GraphRoom, names: Names) -> None:
    ordinal = room.row(names["end"]).ordinal
    assert ordinal is not None
    room.gaps[ordinal] = [names["base"]]


def _gap_before_nothing(room: GraphRoom, names: Names) -> None:
    room.gaps[1000] = [EventId("$nothing:a.example")]


def _closed_gap(room: GraphRoom, names: Names) -> None:
    ordinal = room.row(names["second gap"]).ordinal
    room.gaps = {anchor: ids for anchor, ids in room.gaps.items() if anchor != ordinal}
    room.edit(names["second gap"], gap=False)


def _await_a_known_event(room: GraphRoom, names: Names) -> None:
    room.awaited.append((names["base"], room.nids[names["redaction"]]))


def _await_by_no_redaction(room: GraphRoom, names: Names) -> None:
    room.awaited.append((names["unseen"], room.nids[names["end"]]))


def _swap_positions(room: GraphRoom, names: Names) -> None:
    first, second = room.row(names["early redaction"]), room.row(names["end"])
    room.edit(names["early redaction"], position=second.position)
    room.edit(names["end"], position=first.position)


def _one_too_few(column: str, name: str) -> Callable[[GraphRoom, Names], None]:
    def edit(room: GraphRoom, names: Names) -> None:
        room.edit(names[name], **{column: getattr(room.row(names[name]), column)[1:]})

    return edit


def _unsigned(room: GraphRoom, names: Names) -> None:
    json = room.row(names["end"]).json
    room.edit(names["end"], json=json.replace(b'"ed25519:t":"', b'"ed25519:t":"A', 1))


def _swap_places(room: GraphRoom, names: Names) -> None:
    first, second = room.row(names["early redaction"]), room.row(names["end"])
    room.edit(names["early redaction"], ordinal=second.ordinal, position=second.position)
    room.edit(names["end"], ordinal=first.ordinal, position=first.position)


def _swap_history(room: GraphRoom, names: Names) -> None:
    history = room.row(names["history"])
    far = room.make(BOB, "m.room.message", {"body": "follows history"}, prev=[names["history"]])
    room.arrive(far, history=(history.anchor or 0, 2))


def _another_version(room: GraphRoom, names: Names) -> None:
    room.version = ROOM_VERSIONS["9" if room.version.name == "10" else "11"]


def _no_create(room: GraphRoom, names: Names) -> None:
    room.edit(names["create"], status=REJECTED)
    del room.current["m.room.create", ""]


#: The only kind that must be found when this change is made to a consistent room.
_EDITS: dict[str, tuple[str, Callable[[GraphRoom, Names], None]]] = {
    "an event that is none": ("json", _in_json("end", b'"sender":', b'"sander":')),
    "no canonical form": ("json", _in_json("end", b'{"auth_events":', b'{ "auth_events":')),
    "another event": ("column", _set("end", depth=1)),
    "another type": ("column", _set("end", type="m.reaction")),
    "another state key": ("column", _set("avatar", state_key="x")),
    "no state key": ("column", _set("avatar", state_key=None)),
    "another sender": ("column", _set("end", sender=BOB)),
    "another time": ("column", _set("end", origin_server_ts=1)),
    "another id": ("event_id", _set("end", event_id="$other")),
    "another content": ("content_hash", _in_json("end", b'"end"', b'"END"')),
    "a broken signature": ("signature", _unsigned),
    "a soft-failed event with a place": ("place", _set("soft", anchor=3, back=1)),
    "an accepted one without": ("place", _set("history", anchor=None, back=None)),
    "a hole in the timeline": ("ordinal", _set("end", ordinal=100)),
    "positions": ("position", _swap_positions),
    "a lost predecessor's number": ("prev_nids", _one_too_few("prev_nids", "end")),
    "a strange predecessor's number": ("prev_nids", _set("end", prev_nids=[1])),
    "a lost auth event's number": ("auth_nids", _one_too_few("auth_nids", "end")),
    "before its predecessor": ("order", _swap_places),
    "history before its predecessor": ("history", _swap_history),
    "no create event": ("create", _no_create),
    "a hole in history": ("history", _set("history", back=2)),
    "a gap that is none": ("gap", _gap_of_a_known_event),
    "a gap before nothing": ("gap", _gap_before_nothing),
    "a missing event without a gap": ("missing_event", _closed_gap),
    "old extremities": ("extremities", _drop_ends),
    "a soft-failed extremity": ("extremities", _add_soft_end),
    "a lost change": ("line", _drop_line_row),
    "a change to another event": ("line", _in_line("avatar", event_nid=1)),
    "a change too late": ("line", _in_line("avatar", ordinal=14)),
    "a lost former entry": ("line_row", _in_line("kick", prev_nid=None)),
    "another position": ("line_row", _in_line("kick", position=1)),
    "a change for no reason": ("line_row", _line_row_without_event),
    "a state that is the line's": ("state_before", _as_if_on_the_line),
    "a snapshot of another state": ("state_before", _snapshot("rejected", added=(1,), removed=())),
    "a snapshot that lacks something": ("state_before", _snapshot("steps", added=())),
    "a snapshot's step": ("snapshot", _snapshot("steps", steps=7)),
    "a snapshot without parent": ("snapshot", _snapshot("steps", parent=77)),
    "a snapshot of nothing": ("snapshot", _snapshot("steps", added=(777,))),
    "no snapshot": ("snapshot", _set("second gap", state_nid=777)),
    "a snapshot too many": ("unused_snapshot", _add_unused_snapshot),
    "said to be resolved": ("resolved", _set("end", resolved=True)),
    "replaces another": ("replaces", _set("kick", replaces_nid=1)),
    "replaces nothing": ("replaces", _set("kick", replaces_nid=None)),
    "old current state": ("current_state", _wrong_current_state),
    "lost current state": ("current_state", _missing_current_state),
    "a membership": ("membership", _wrong_membership),
    "a strange member": ("membership", _strange_member),
    "let in against the rules": ("auth", _set("rejected", status=SOFT_FAILED)),
    "rejected against the rules": ("rejected_without_reason", _set("soft", status=REJECTED)),
    "not redacted": ("redacted_by", _set("base", redacted_by=None)),
    "redacted by no redaction": ("redacted_by", _set("merge", redacted_by=8)),
    "redacts nothing": ("redacts", _set("redaction", redacts_nid=None)),
    "redacts another": ("redacts", _set("end", redacts_nid=3)),
    "awaited and here": ("awaited_redaction", _await_a_known_event),
    "awaited by no redaction": ("awaited_redaction", _await_by_no_redaction),
    "an answer that is not here": ("transaction", _wrong_transaction),
}


@pytest.mark.parametrize("what", _EDITS)
@pytest.mark.parametrize("version", ["10", "12"])
def test_changed_row_has_its_kind_of_finding(version: str, what: str) -> None:
    room, names = forked_room(version)
    kind, edit = _EDITS[what]
    edit(room, names)
    found = room.check({KEY.key_id: KEY.verify_key})
    assert [each.kind for each in found if not each.is_note or each.kind == kind] == [kind], found


def test_room_version_must_be_that_of_the_create_event() -> None:
    room, names = forked_room("10")
    _another_version(room, names)
    assert [each.kind for each in room.check()] == ["room_row"]


def test_accepted_event_with_rejected_auth_event_is_found() -> None:
    room = GraphRoom("10")
    room.member(CAROL, "join")
    levels = room.send(CAROL, "m.room.power_levels", {"users": {CAROL: 100}}, "")
    assert room.row(levels).status == REJECTED
    state = {**room.current, ("m.room.power_levels", ""): room.events[levels]}
    said = room.say(CAROL, "i am the boss", known=state)
    assert room.row(said).status == REJECTED
    room.edit(said, status=SOFT_FAILED)
    assert [each.kind for each in room.check()] == ["rejected_auth_event"]


def test_circle_of_events_is_found() -> None:
    """Possible only if ids are not hashes."""
    room = GraphRoom("1")
    room.member(BOB, "join")
    later = EventId(f"$e{room.count + 1}:b.example")
    room.made[later] = room.create  # its hash is not checked
    state = room.current
    first = room.make(BOB, "m.room.message", {"body": "first"}, prev=[later], known=state)
    second = room.make(BOB, "m.room.message", {"body": "second"}, prev=[first.event_id], known=state)
    assert second.event_id == later
    room.arrive(first, given=state)
    room.say(BOB, "end")
    room.arrive(second, history=(room.row(first.event_id).ordinal or 0, 1))
    assert [each.kind for each in room.check()] == ["circle"]


@pytest.mark.parametrize("first", [7, 8, 14])
def test_purged_room_has_no_findings(first: int) -> None:
    """The line keeps the state from before the first remaining event, and the state events are outliers."""
    room, _ = forked_room("10")
    for nid, row in list(room.rows.items()):
        if row.ordinal is None or row.ordinal >= first:
            continue
        if row.state_key is None:
            del room.rows[nid]
        else:
            room.rows[nid] = row._replace(ordinal=None, status=OUTLIER, replaces_nid=None, resolved=False)
    found = [each for each in room.check() if not each.is_note]
    assert found == []


def test_redaction_that_changes_permissions_has_no_findings() -> None:
    """Redacted power levels lose `invite`. Invites before and after the redaction are allowed."""
    room = GraphRoom("10")
    room.member(BOB, "join")
    content = {"users": {ALICE: 100}, "invite": 100}
    levels = room.send(ALICE, "m.room.power_levels", content, "")
    room.send(ALICE, "m.room.redaction", {}, redacts=levels)
    version, event = room.version, room.events[levels]
    bare = parse_event(version, redact_pdu(version, event.pdu), event_id=event.event_id)
    room.events[levels] = bare
    for state in (room.current, *room.after.values()):
        if state.get(("m.room.power_levels", "")) is event:
            state["m.room.power_levels", ""] = bare
    invited = room.member(CAROL, "invite", BOB)
    assert room.row(invited).status == ACCEPTED, "without the redaction Bob may not invite"
    assert room.check() == []
    room.edit(levels, redacted_by=None)
    assert {each.kind for each in room.check()} == {"redacted_by", "auth"}


def test_findings_beyond_the_limit_are_counted() -> None:
    room = GraphRoom("10")
    for number in range(MAX_OF_A_KIND + 7):
        room.edit(room.say(ALICE, f"{number}"), depth=0)
    found = room.check()
    assert len(found) == MAX_OF_A_KIND + 1
    assert found[-1].detail == "and 7 more of this kind"
    assert found[-1].advice == KINDS["column"]
