"""Rooms with forks as a server stores them, computed in a simple way: whole states, all rows in memory.

For tests of code that reads or checks a room's graph. The oracle of the state resolution tests resolves states.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth, may_apply_redaction
from shared.core.event_checks import check_auth_events_of
from shared.core.events import Event, build_event
from shared.core.events.hashing import reference_hash
from shared.core.events.readers import membership_of, power_levels_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_check import (
    EventColumns,
    Finding,
    Findings,
    LineRow,
    MembershipRow,
    RoomLoader,
    StoredRoom,
    check_stored_room,
)
from shared.core.room_versions import ROOM_VERSIONS
from shared.core.state_snapshots import Snapshot, find_parent
from shared.storage.events.batch import (
    ACCEPTED,
    OUTLIER,
    REJECTED,
    SOFT_FAILED,
    AwaitedRedaction,
    ChangeToStore,
    EventBatch,
    EventToStore,
    MembershipToStore,
    RoomToStore,
    TransactionToStore,
)
from tests.core.rooms import KEY
from tests.core.state_resolution import oracle

Key = tuple[str, str]
State = dict[Key, Event]

SERVER = "a.example"
ALICE, BOB, CAROL = UserId("@alice:a.example"), UserId("@bob:b.example"), UserId("@carol:c.example")
START_MS = 1_700_000_000_000


class GraphRoom:
    """A room created by Alice, and its rows. rows: event number -> row; the others: as in `StoredRoom`."""

    def __init__(self, version_name: str = "10", *, begun: bool = True) -> None:
        self.version = ROOM_VERSIONS[version_name]
        self.made: dict[EventId, Event] = {}  # also events that have not arrived
        self.count = 0  # the number of made events
        self.events: dict[EventId, Event] = {}
        self.nids: dict[EventId, int] = {}
        self.rows: dict[int, EventColumns] = {}
        self.before: dict[EventId, State] = {}
        self.after: dict[EventId, State] = {}
        self.current: State = {}
        self.line: list[LineRow] = []
        self.members: dict[UserId, MembershipRow] = {}
        self.snapshots: dict[int, Snapshot] = {}
        self.gaps: dict[int, list[EventId]] = {}
        self.awaited: list[tuple[EventId, int]] = []
        self.transactions: list[EventId] = []
        self.ends: list[EventId] = []
        self.ordinal = 0
        if begun:
            content: dict[str, Any] = {"room_version": version_name}
            if self.version.creator_in_content:
                content["creator"] = ALICE
            self.send(ALICE, "m.room.create", content, "", prev=[])
            self.member(ALICE, "join")
            users = {BOB: 50} if self.version.creators_outrank_all else {ALICE: 100, BOB: 50}
            self.send(ALICE, "m.room.power_levels", {"users": users}, "")
            self.send(ALICE, "m.room.join_rules", {"join_rule": "public"}, "")

    @property
    def create(self) -> Event:
        return next(iter(self.events.values()))

    # -- events

    def send(
        self, sender: UserId, event_type: str, content: Mapping[str, Any], key: str | None = None, **how: Any
    ) -> EventId:
        """Make an event and add it; return its id. how: as for `make` and `arrive`."""
        made = {name: how.pop(name) for name in ("prev", "redacts", "known", "depth") if name in how}
        return self.arrive(self.make(sender, event_type, content, key, **made), **how)

    def say(self, sender: UserId, text: str, **how: Any) -> EventId:
        return self.send(sender, "m.room.message", {"body": text}, **how)

    def member(self, user_id: UserId, membership: str, sender: UserId | None = None, **how: Any) -> EventId:
        return self.send(sender or user_id, "m.room.member", {"membership": membership}, user_id, **how)

    def make(
        self,
        sender: UserId,
        event_type: str,
        content: Mapping[str, Any],
        key: str | None = None,
        *,
        prev: Sequence[EventId] | None = None,
        redacts: EventId | None = None,
        known: State | None = None,
        depth: int | None = None,
    ) -> Event:
        """Return an event that follows others (default: the extremities). known: the state that its server knows."""
        prev = list(self.ends if prev is None else prev)
        state = self.resolve([self.after[event_id] for event_id in prev]) if known is None else known
        wanted = auth_types_for(self.version, type=event_type, sender=sender, state_key=key, content=content)
        named = [state[one].event_id for one in wanted if one in state]
        after = [self.made[one] for one in prev]
        event = build_event(
            self.version,
            room_id=self._room_id(),
            sender=sender,
            type=event_type,
            state_key=key,
            content=content,
            prev_event_ids=prev,
            auth_event_ids=named,
            depth=1 + max((one.depth for one in after), default=0) if depth is None else depth,
            origin_server_ts=START_MS + self.count,
            redacts=redacts,
            signing_key=KEY,
            server_name=sender.partition(":")[2],
            event_id_localpart=f"e{self.count}",
            reference_hashes={one: reference_hash(self.version, self.made[one].pdu) for one in [*prev, *named]},
        )
        self.made[event.event_id] = event
        self.count += 1
        return event

    def arrive(
        self,
        event: Event,
        *,
        given: State | None = None,
        history: tuple[int, int] | None = None,
        outlier: bool = False,
    ) -> EventId:
        """Authorize an event and store it; return its id.

        given: the whole state before it, if not all predecessors are stored
        history: (anchor, back)
        """
        nid = len(self.nids) + 1
        before = {} if outlier else self._state_before(event, given)
        status = OUTLIER if outlier else self._status(event, before, history is not None)
        self.events[event.event_id] = event
        self.nids[event.event_id] = nid
        missing = [] if outlier else [one for one in event.prev_event_ids if one not in self.before]
        is_live = status == ACCEPTED and history is None
        is_line = set(event.prev_event_ids) == set(self.ends)
        state_nid = None if outlier or (is_live and is_line) else self._snapshot(nid, event, before)
        if not outlier:
            self.before[event.event_id] = before
            changed = event.state_key is not None and status != REJECTED
            self.after[event.event_id] = {**before, key_of(event): event} if changed else before
        self.rows[nid] = self._row(event, nid, status, state_nid)
        if is_live:
            self.ordinal += 1
            self._advance(event, nid)
            self._redact(event, nid)
            if missing:
                self.gaps[self.ordinal] = missing
                self.edit(event.event_id, gap=True)
        elif history is not None and status == ACCEPTED:
            self.edit(event.event_id, anchor=history[0], back=history[1])
            for anchor, ids in list(self.gaps.items()):
                left = [one for one in ids if one != event.event_id]
                self.gaps = {**self.gaps, anchor: left} if left else {k: v for k, v in self.gaps.items() if k != anchor}
        return event.event_id

    def _state_before(self, event: Event, given: State | None) -> State:
        return given if given is not None else self.resolve([self.after[one] for one in event.prev_event_ids])

    def resolve(self, states: Sequence[State]) -> State:
        if len(states) < 2:
            return dict(states[0]) if states else {}
        maps = [{key: event.event_id for key, event in state.items()} for state in states]
        rejected = {row.event_id for row in self.rows.values() if row.status == REJECTED}
        resolved = oracle.resolve(
            self.version, maps, self.events.get, rejected=rejected.__contains__, create=self.create
        )
        return {key: self.events[event_id] for key, event_id in resolved.items()}

    def _status(self, event: Event, before: State, is_history: bool) -> int:
        if not self.events:
            return ACCEPTED
        cited = [self.events[one] for one in event.auth_event_ids if one in self.events]
        rejected = {row.event_id for row in self.rows.values() if row.status == REJECTED}
        if not check_auth_events_of(self.version, event, cited, rejected=rejected, create=self.create).passed:
            return REJECTED
        if not self._allows(event, before):
            return REJECTED
        return ACCEPTED if is_history or self._allows(event, self.current) else SOFT_FAILED

    def _allows(self, event: Event, state: State) -> bool:
        try:
            check_auth(self.version, event, state, self.create)
        except AuthRuleViolation:
            return False
        return True

    def _snapshot(self, nid: int, event: Event, before: State) -> int:
        """Return the snapshot of the state before an event: a step from its predecessor's snapshot, or a root."""
        only = self.nids.get(event.prev_event_ids[0]) if len(event.prev_event_ids) == 1 else None
        row = None if only is None else self.rows.get(only)
        if row is not None and row.state_nid is not None and row.state_key is not None and row.status != REJECTED:
            walk = [self.snapshots[row.state_nid]]
            while (parent := walk[-1].parent) is not None:
                walk.append(self.snapshots[parent])
            index = find_parent(walk)
            holds = {key_of(event_of): event_of.event_id for event_of in self._added(walk[:index])}
            holds[row.type, row.state_key] = row.event_id
            added = tuple(sorted(self.nids[one] for one in holds.values()))
            self.snapshots[nid] = Snapshot(nid, walk[index].nid, None, walk[0].steps + 1, added, ())
            return nid
        added = tuple(self.nids[e.event_id] for key, e in before.items() if self.current.get(key) is not e)
        removed = tuple(self.nids[e.event_id] for key, e in self.current.items() if key not in before)
        self.snapshots[nid] = Snapshot(nid, None, self.ordinal + 1, 0, added, removed)
        return nid

    def _added(self, walk: Sequence[Snapshot]) -> list[Event]:
        by_nid = {nid: event_id for event_id, nid in self.nids.items()}
        return [self.events[by_nid[nid]] for snapshot in reversed(walk) for nid in snapshot.added]

    def _row(self, event: Event, nid: int, status: int, state_nid: int | None) -> EventColumns:
        return EventColumns(
            event_nid=nid,
            event_id=event.event_id,
            writer=1,
            position=nid,
            ordinal=None,
            depth=event.depth,
            type=event.type,
            state_key=event.state_key,
            sender=event.sender,
            origin_server_ts=event.origin_server_ts,
            status=status,
            prev_nids=[self.nids[e] for e in event.prev_event_ids if e in self.nids],
            auth_nids=[self.nids[e] for e in event.auth_event_ids if e in self.nids],
            replaces_nid=None,
            redacted_by=None,
            redacts_nid=None,
            anchor=None,
            back=None,
            state_nid=state_nid,
            resolved=False,
            gap=False,
            json=event.encoded,
        )

    def _advance(self, event: Event, nid: int) -> None:
        """Append an accepted event to the timeline."""
        self.ends = [one for one in self.ends if one not in event.prev_event_ids] + [event.event_id]
        now = self.resolve([self.after[one] for one in self.ends])
        changed = sorted(key for key in now.keys() | self.current.keys() if now.get(key) is not self.current.get(key))
        replaces: int | None = None
        for key in changed:
            was, entry = self.current.get(key), now.get(key)
            was_nid = None if was is None else self.nids[was.event_id]
            now_nid = None if entry is None else self.nids[entry.event_id]
            self.line.append(
                LineRow(
                    type=key[0],
                    state_key=key[1],
                    ordinal=self.ordinal,
                    event_nid=now_nid,
                    prev_nid=was_nid,
                    writer=1,
                    position=nid,
                )
            )
            replaces = was_nid if now_nid == nid else replaces
            if key[0] == "m.room.member":
                self._set_member(UserId(key[1]), entry, was)
        usual = [] if event.state_key is None else [key_of(event)]
        resolved = changed != usual or any(now.get(key) is not event for key in changed)
        self.current = now
        self.edit(event.event_id, ordinal=self.ordinal, replaces_nid=replaces, resolved=resolved)

    def _set_member(self, user_id: UserId, entry: Event | None, was: Event | None) -> None:
        if entry is None:
            assert was is not None
            self.members[user_id] = MembershipRow("leave", self.nids[was.event_id], user_id, self.ordinal)
        else:
            membership = membership_of(entry) or "leave"
            self.members[user_id] = MembershipRow(membership, self.nids[entry.event_id], entry.sender, self.ordinal)

    def _redact(self, event: Event, nid: int) -> None:
        if event.redacts is None:
            return
        target = self.events.get(event.redacts)
        if target is None:
            self.awaited.append((event.redacts, nid))
            return
        levels = power_levels_of(self.version, self.create, self.current.get(("m.room.power_levels", "")))
        if may_apply_redaction(self.version, event, target, levels):
            self.edit(event.event_id, redacts_nid=self.nids[target.event_id])
            if self.rows[self.nids[target.event_id]].redacted_by is None:
                self.edit(target.event_id, redacted_by=nid)

    def _room_id(self) -> RoomId | None:
        if self.events:
            return self.create.room_id
        return None if self.version.room_id_is_create_hash else RoomId(f"!room:{SERVER}")

    # -- rows

    def edit(self, event_id: EventId, /, **columns: Any) -> None:
        """Change columns of an event's row."""
        nid = self.nids[event_id]
        self.rows[nid] = self.rows[nid]._replace(**columns)

    def row(self, event_id: EventId) -> EventColumns:
        return self.rows[self.nids[event_id]]

    def stored(self, findings: Findings, verify_keys: Mapping[str, bytes] | None = None) -> StoredRoom:
        """Return the room as read from the database."""
        room = StoredRoom(self.create.room_id, self.version)
        loader = RoomLoader(room, findings, SERVER, verify_keys)
        for row in self.rows.values():
            loader.add(row)
        room.extremities = [self.nids[one] for one in self.ends]
        room.line = list(self.line)
        room.current_state = {key: self.nids[event.event_id] for key, event in self.current.items()}
        room.memberships = dict(self.members)
        room.snapshots = list(self.snapshots.values())
        room.gaps = dict(self.gaps)
        room.awaited = list(self.awaited)
        room.transactions = list(self.transactions)
        return room

    def check(self, verify_keys: Mapping[str, bytes] | None = None) -> list[Finding]:
        """Check the stored room."""
        findings = Findings()
        check_stored_room(self.stored(findings, verify_keys), findings)
        return findings.all()

    def batch(self, room_nid: int = 1) -> EventBatch:
        """Return a batch that stores the whole room in an empty database."""
        ids = {nid: event_id for event_id, nid in self.nids.items()}
        at = {row.ordinal: nid for nid, row in self.rows.items() if row.ordinal is not None}
        changes = [ChangeToStore(at[r.ordinal], r.ordinal, *r[:2], r.event_nid, r.prev_nid) for r in self.line]
        members = [
            MembershipToStore(at[m.ordinal], user_id, m.membership, m.event_nid, m.sender, user_id.endswith(SERVER))
            for user_id, m in self.members.items()
        ]
        return EventBatch(
            events=[_to_store(room_nid, row) for row in self.rows.values()],
            extremities={room_nid: [self.nids[one] for one in self.ends]},
            transactions=[
                TransactionToStore(room_nid, b"%d" % n, event_id, START_MS)
                for n, event_id in enumerate(self.transactions)
            ],
            changes=changes,
            memberships=members,
            rooms=[RoomToStore(room_nid, self.create.room_id, self.version.name, ALICE, True, START_MS)] if ids else [],
            snapshots=[(room_nid, snapshot) for snapshot in self.snapshots.values()],
            gaps={(room_nid, anchor): ids for anchor, ids in self.gaps.items()},
            awaited=[AwaitedRedaction(room_nid, event_id, nid) for event_id, nid in self.awaited],
        )


def key_of(event: Event) -> Key:
    assert event.state_key is not None
    return event.type, event.state_key


def _to_store(room_nid: int, row: EventColumns) -> EventToStore:
    return EventToStore(
        room_nid=room_nid,
        event_nid=row.event_nid,
        event_id=row.event_id,
        ordinal=row.ordinal,
        depth=row.depth,
        type=row.type,
        state_key=row.state_key,
        sender=row.sender,
        origin_server_ts=row.origin_server_ts,
        prev_nids=row.prev_nids,
        auth_nids=row.auth_nids,
        replaces_nid=row.replaces_nid,
        redacted_by=row.redacted_by,
        redacts_nid=row.redacts_nid,
        json=row.json,
        status=row.status,
        anchor=row.anchor,
        back=row.back,
        state_nid=row.state_nid,
        resolved=row.resolved,
        gap=row.gap,
    )


def forked_room(version_name: str = "10") -> tuple[GraphRoom, dict[str, EventId]]:
    """Return a room with every feature of a graph, and name -> event id.

    It has a fork with snapshots in steps, its merge, a conflict, soft-failed and rejected events, a gap, history, an
    outlier and redactions.
    """
    room = GraphRoom(version_name)
    names: dict[str, EventId] = {"create": room.create.event_id, "alice": list(room.nids)[1]}
    names["levels"], names["rules"] = list(room.nids)[2:4]
    names["bob"] = room.member(BOB, "join")
    names["carol"] = room.member(CAROL, "join")
    names["base"] = room.say(ALICE, "base")
    names["name"] = room.send(ALICE, "m.room.name", {"name": "one"}, "")
    names["topic"] = room.send(BOB, "m.room.topic", {"topic": "two"}, "", prev=[names["base"]])
    names["branch"] = room.say(BOB, "on the branch", prev=[names["topic"]])
    names["other name"] = room.send(BOB, "m.room.name", {"name": "three"}, "", prev=[names["branch"]])
    names["avatar"] = room.send(BOB, "m.room.avatar", {"url": "mxc://a/b"}, "", prev=[names["other name"]])
    names["steps"] = room.say(BOB, "steps", prev=[names["avatar"]])
    names["merge"] = room.say(ALICE, "merge")
    names["kick"] = room.member(CAROL, "leave", ALICE)
    names["soft"] = room.say(CAROL, "too late", prev=[names["merge"]])
    carol = room.row(names["carol"])
    names["rejected"] = room.send(CAROL, "m.room.topic", {"topic": "no"}, "", prev=[names["merge"]])
    names["after soft"] = room.say(BOB, "i follow the soft-failed one", prev=[names["soft"], names["kick"]])
    far = room.make(BOB, "m.room.message", {"body": "far"}, prev=[names["merge"]])
    given = room.current
    lost = room.make(BOB, "m.room.message", {"body": "lost"}, prev=[far.event_id], known=given)
    names["gap"] = room.arrive(lost, given=given)
    names["history"] = room.arrive(far, history=(room.ordinal, 1))
    unseen = room.make(BOB, "m.room.message", {"body": "never seen"}, prev=[names["merge"]])
    names["second gap"] = room.arrive(
        room.make(BOB, "m.room.message", {"body": "?"}, prev=[unseen.event_id], known=given), given=given
    )
    names["unseen"] = unseen.event_id
    old = room.make(BOB, "m.room.name", {"name": "outlier"}, "", prev=[unseen.event_id], known=given)
    names["outlier"] = room.arrive(old, outlier=True)
    names["redaction"] = room.send(BOB, "m.room.redaction", {}, redacts=names["base"])
    names["early redaction"] = room.send(BOB, "m.room.redaction", {}, redacts=unseen.event_id)
    names["end"] = room.say(ALICE, "end")
    room.transactions = [names["merge"], names["end"]]
    assert carol.status == ACCEPTED
    return room, names
