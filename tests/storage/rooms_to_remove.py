"""Random rooms with forks, snapshots, history, redactions and gaps, for tests of removal.

The numbers of events are `base` + 1, `base` + 2, ..., so that two rooms of the same seed differ by their bases only.
"""

import random
from collections.abc import Mapping
from typing import Any

import asyncpg

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules.event_outcome import EventOutcome
from shared.core.state_snapshots import Snapshot
from shared.storage.events.batch import (
    AwaitedRedaction,
    ChangeToStore,
    EventBatch,
    EventToStore,
    MembershipToStore,
    RedactionToStore,
    RoomToStore,
)
from shared.storage.events.commit import commit_events
from shared.storage.removal.purge_statements import AUTH_TYPES
from tests.storage.one_writer import OneConnection, event

_NUMBERED_TABLES = """
    awaited_redactions client_transactions current_state delayed_events events forward_extremities gaps memberships
    push_counters push_exceptions push_members push_own push_redacted push_redacted_users receipts room_aliases rooms
    search_words state_changes state_snapshots sticky_events thread_subscriptions user_directory_rooms
"""
#: All tables with rows of rooms: the condition for the rows of one room.
ROOM_ROWS = dict.fromkeys(_NUMBERED_TABLES.split(), "room_nid = $1") | {
    "account_data": "room_id = (SELECT coalesce(deleted_id, room_id) FROM rooms WHERE room_nid = $1)"
}
#: The counts of live events, in turns.
_OUTCOMES = (
    EventOutcome(groups=((0, 1, 0), (7, 1, 1)), users=((UserId("@u0:b"), 0, 1),)),
    EventOutcome(groups=((0, 1, 1),)),
    EventOutcome(thread_id="$thread", groups=((7, 1, 0),), users=((UserId("@u1:b"), -1, 0),)),
    EventOutcome(group_changes=((UserId("@u0:b"), 7),)),
    EventOutcome(),
)
_KEYS = [("m.room.topic", ""), ("m.room.name", ""), ("x.state", "a"), ("x.state", "b")] + [
    ("m.room.member", f"@u{n}:b") for n in range(4)
]
State = Mapping[tuple[str, str], int]


class RandomRoom:
    """One batch with a whole room in it."""

    def __init__(self, room_nid: int, base: int, seed: int, size: int) -> None:
        self.room_nid, self.base, self.size = room_nid, base, size
        self.room_id = RoomId(f"!r{room_nid}:b")
        self.batch = EventBatch(rooms=[RoomToStore(room_nid, self.room_id, "11", "@u0:b", True, 1)])
        self._random = random.Random(seed)
        self._nid = base
        self._line: dict[tuple[str, str], int] = {}
        self._state_events: list[tuple[int, tuple[str, str]]] = []
        self._snapshots: list[Snapshot] = []
        self._fill()

    def _add(self, ordinal: int | None, kind: str, key: str | None = None, **more: Any) -> EventToStore:
        self._nid += 1
        citable = [nid for nid, (of, _) in self._state_events if of in AUTH_TYPES]
        fields: dict[str, Any] = {
            "state_key": key,
            "event_id": f"${self._nid}",
            "depth": ordinal or 1,
            "prev_nids": [self._nid - 1] if self._nid > self.base + 1 else [],
            "auth_nids": sorted(self._random.sample(citable, min(len(citable), 3))),
            "origin_server_ts": 1000 * (ordinal or 1),
            "json": b'{"content":{}}',
        }
        if self._random.random() < 0.12 and self._snapshots:
            fields["state_nid"] = self._random.choice(self._snapshots).nid
        made = event(self.room_nid, self._nid, ordinal, kind, **(fields | more))  # type: ignore[arg-type]
        self.batch.events.append(made)
        if key is not None and made.status == 0:
            self._state_events.append((made.event_nid, (kind, key)))
        return made

    def _change(self, at: EventToStore, kind: str, key: str, nid: int | None) -> None:
        assert at.ordinal is not None
        self.batch.changes.append(ChangeToStore(at.event_nid, at.ordinal, kind, key, nid, self._line.get((kind, key))))
        if nid is None:
            self._line.pop((kind, key), None)
            return
        self._line[kind, key] = nid
        if kind == "m.room.member":
            self.batch.memberships.append(MembershipToStore(at.event_nid, UserId(key), "join", nid, UserId(key), True))

    def _snapshot(self, ordinal: int) -> int:
        chosen = {key: nid for nid, key in self._random.sample(self._state_events, 2)}
        left = [nid for key, nid in self._line.items() if key not in chosen and key not in _KEYS[4:]][:1]
        self._nid += 1
        added, removed = tuple(sorted(chosen.values())), tuple(left if self._random.random() < 0.5 else ())
        if self._snapshots and self._random.random() < 0.5:
            parent = self._random.choice(self._snapshots)
            made = Snapshot(self._nid, parent.nid, None, parent.steps + 1, added, removed)
        else:
            base = self._random.randint(max(3, ordinal - 10), ordinal)
            made = Snapshot(self._nid, None, base, 0, added, removed)
        self._snapshots.append(made)
        self.batch.snapshots.append((self.room_nid, made))
        return self._nid

    def _fill(self) -> None:
        chance = self._random
        for ordinal, (kind, key) in enumerate([("m.room.create", ""), ("m.room.member", "@u0:b"), *_KEYS], 1):
            made = self._add(ordinal, kind, key)
            self._change(made, kind, key, made.event_nid)
        waiting = self._add(len(_KEYS) + 3, "m.room.redaction")
        self.batch.awaited.append(AwaitedRedaction(self.room_nid, EventId("$absent"), waiting.event_nid))
        for ordinal in range(len(_KEYS) + 4, self.size + 1):
            roll = chance.random()
            if roll < 0.25:
                kind, key = chance.choice(_KEYS)
                made = self._add(ordinal, kind, key)
                self._change(made, kind, key, made.event_nid)
            elif roll < 0.35:
                target = chance.choice([e for e in self.batch.events if e.redacted_by is None])
                redaction = self._add(ordinal, "m.room.redaction", redacts_nid=target.event_nid)
                self.batch.redacted.append(RedactionToStore(self.room_nid, target.event_nid, redaction.event_nid))
            elif roll < 0.45:
                self._add(ordinal, "m.room.message", state_nid=self._snapshot(ordinal))
            elif roll < 0.5:
                # A resolution restores an old value, or removes one.
                made = self._add(ordinal, "m.room.message", resolved=True)
                nid, changed = chance.choice(self._state_events[2:])
                if changed[0] == "x.state" and chance.random() < 0.5 and changed in self._line:
                    self._change(made, *changed, None)
                elif self._line.get(changed) != nid:
                    self._change(made, *changed, nid)
            elif roll < 0.55:
                for back in range(1, 4):
                    more: dict[str, Any] = {"anchor": ordinal, "back": back, "state_nid": None}
                    self._add(None, *(("x.state", "a") if back == 2 else ("m.room.message",)), **more)
                self.batch.gaps[self.room_nid, ordinal] = ["$missing"]
                self._add(ordinal, "m.room.message", gap=True)
            else:
                if roll < 0.6:
                    status = chance.choice([1, 2])
                    self._add(None, "m.room.message", status=status, origin_server_ts=1000 * ordinal)
                self._add(ordinal, "m.room.message")
        live = [e for e in self.batch.events if e.ordinal is not None]
        heads = {live[-1].event_nid, live[len(live) // 3].event_nid, live[-4].event_nid}
        self.batch.extremities[self.room_nid] = sorted(heads)
        self._add(self.size + 1, "m.room.message")
        self._add(self.size + 2, "m.room.message")

    async def store(self, writer: OneConnection) -> None:
        # Events that the same batch redacts are stored as redacted.
        by_target = {target: redaction for _, target, redaction in self.batch.redacted}
        for number, made in enumerate(self.batch.events):
            if made.ordinal is not None:
                object.__setattr__(made, "push", _OUTCOMES[number % len(_OUTCOMES)])
        for made in self.batch.events:
            object.__setattr__(made, "redacted_by", by_target.get(made.event_nid))
        self.batch.redacted = []
        await commit_events(writer.write, self.batch)
        conn = writer.conn
        await conn.execute(
            "INSERT INTO receipts VALUES ($1, '@u0:b', 'm.read', '', $2, 5, 1, 1, 1)", self.room_nid, "$1"
        )
        await conn.execute(
            "INSERT INTO room_aliases VALUES ($1, $2, '@u0:b', 1)", f"#a{self.room_nid}:b", self.room_nid
        )
        await conn.execute("INSERT INTO search_words VALUES ($1, $2, 0, 'bees')", self.room_nid, self.base + 1)
        await conn.execute("INSERT INTO user_directory_rooms VALUES ($1)", self.room_nid)
        await conn.execute(
            "INSERT INTO delayed_events"
            " (delay_id, shard, user_id, room_nid, type, content, delay_ms, scheduled_ms, check_ms)"
            " VALUES ($2, 0, '@u0:b', $1, 'x', '{}', 1, 1, 1)",
            self.room_nid,
            f"d{self.room_nid}",
        )
        await conn.execute(
            "INSERT INTO thread_subscriptions VALUES ('@u0:b', $1, '$1', true, false, 0, 1, $1)", self.room_nid
        )
        await conn.execute("INSERT INTO sticky_events VALUES ($1, $2, 5, 1, 1, 1)", self.room_nid, self.base + 1)
        await conn.execute("INSERT INTO client_transactions VALUES ($1, 'k', '$1', 1)", self.room_nid)
        await conn.execute("INSERT INTO push_own VALUES ($1, '@u0:b', '', 5)", self.room_nid)
        await conn.execute(
            "INSERT INTO account_data VALUES ('@u0:b', $1, 'm.tag', '{}', 1, $2)", self.room_id, self.room_nid
        )


async def dump(conn: asyncpg.Connection, room_nid: int) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a room, sorted, by table."""
    rows = {}
    for table, where in ROOM_ROWS.items():
        found = await conn.fetch(f"SELECT t.*::text AS row FROM {table} t WHERE {where}", room_nid)
        rows[table] = sorted(tuple(row) for row in found)
    return rows


async def states(conn: asyncpg.Connection, room_nid: int, ordinals: str) -> dict[int, State]:
    """Return the state before each accepted event whose ordinal meets an SQL condition, by the event's number."""
    found = await conn.fetch("SELECT event_nid, type, state_key FROM events WHERE room_nid = $1", room_nid)
    keys = {nid: (kind, key) for nid, kind, key in found}
    changes = await conn.fetch(
        "SELECT ordinal, type, state_key, event_nid FROM state_changes WHERE room_nid = $1 ORDER BY ordinal", room_nid
    )
    snapshots = {
        row["nid"]: row for row in await conn.fetch("SELECT * FROM state_snapshots WHERE room_nid = $1", room_nid)
    }

    def line(before: int) -> dict[tuple[str, str], int]:
        state = {}
        for ordinal, kind, key, nid in changes:
            if ordinal < before:
                state[kind, key] = nid
        assert all(nid is None or nid in keys for nid in state.values()), "the line names a deleted event"
        return {key: nid for key, nid in state.items() if nid is not None}

    def snapshot(nid: int) -> dict[tuple[str, str], int]:
        row = snapshots[nid]
        state = line(row["base"]) if row["parent"] is None else snapshot(row["parent"])
        for removed in row["removed"]:
            state.pop(keys[removed], None)
        return state | {keys[added]: added for added in row["added"]}

    events = await conn.fetch(
        f"SELECT event_nid, ordinal, state_nid FROM events WHERE room_nid = $1 AND status = 0 AND {ordinals}", room_nid
    )
    return {nid: line(at) if state_nid is None else snapshot(state_nid) for nid, at, state_nid in events}
