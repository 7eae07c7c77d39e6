"""Shared by tests of unread counts: users' push rules, and a plain evaluation of every event for every member."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replication.streams import PUSH_RULES
from shared.core.events import Event, parse_event
from shared.core.events.readers import power_levels_of
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules import (
    ALL_OFF,
    DEFAULT_GROUP,
    NO_CHANGES,
    PushEvent,
    Recipient,
    RuleChanges,
    UserRule,
    UserRules,
    affected_rooms,
    changes_to_json,
)
from shared.core.room_versions import get_room_version
from shared.storage.push.totals_check import get_wrong_totals
from shared.storage.streams.catch_up import EVENTS, pages
from tests.rigs.persister import Persister
from tests.rigs.worker import SERVER

NOTIFY, HIGHLIGHT = "notify", {"set_tweak": "highlight"}


def keyword(word: str) -> RuleChanges:
    return NO_CHANGES.with_kind("content", [UserRule("k", [NOTIFY, HIGHLIGHT], pattern=word)])


def mentions_only(room_id: RoomId) -> RuleChanges:
    return NO_CHANGES.with_kind("room", [UserRule(room_id, [])])


def muted(room_id: RoomId) -> RuleChanges:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room_id}
    return NO_CHANGES.with_kind("override", [UserRule(room_id, [], conditions=[condition])])


def of_sender(user_id: UserId, actions: Sequence[Any] = ()) -> RuleChanges:
    return NO_CHANGES.with_kind("sender", [UserRule(user_id, list(actions))])


def own_name() -> RuleChanges:
    rule = UserRule("name", [NOTIFY, HIGHLIGHT], conditions=[{"kind": "contains_display_name"}])
    return NO_CHANGES.with_kind("override", [rule])


async def set_rules(
    persister: Persister, user_id: UserId, changes: RuleChanges = NO_CHANGES, ignored: Sequence[UserId] = ()
) -> None:
    """Set a user's push rules, and make the persister read them."""
    everywhere, rooms = affected_rooms(changes, ALL_OFF)
    await persister.sql(
        """INSERT INTO push_rules (user_id, rules, ignored, everywhere, rooms, writer, position)
           VALUES ($1, $2, $3, $4, $5, $6, nextval('stream_push_rules'))
           ON CONFLICT (user_id) DO UPDATE SET rules = $2, ignored = $3, everywhere = $4, rooms = $5, writer = $6,
             position = excluded.position""",
        user_id,
        changes_to_json(changes),
        list(ignored),
        everywhere,
        sorted(rooms),
        persister.foundation.lease,
    )
    await persister.foundation.follower.read_now(PUSH_RULES)


Counts = Mapping[str, tuple[int, int]]


@dataclass
class Model:
    """Evaluates each event for each member in timeline order, with the rules of that time."""

    version_name: str
    rules: dict[str, tuple[RuleChanges, frozenset[str]]] = field(default_factory=dict)
    members: dict[str, tuple[str, str]] = field(default_factory=dict)  # user -> membership, display name
    threads: dict[str, str] = field(default_factory=dict)
    #: ordinal -> thread, and the counts for local users who are joined or whom the event invites
    counted: dict[int, tuple[str, Counts]] = field(default_factory=dict)
    ordinals: dict[str, int] = field(default_factory=dict)
    redacted: dict[int, int] = field(default_factory=dict)  # ordinal -> ordinal of its redaction
    levels: Event | None = None
    create: Event | None = None

    def take(self, event: Event, ordinal: int, *, redacts: bool = False) -> None:
        version = get_room_version(self.version_name)
        self.create = self.create or event
        levels = power_levels_of(version, self.create, self.levels)
        if event.type == "m.room.power_levels" and event.state_key == "":
            self.levels = event
        if event.type == "m.room.member":
            assert event.state_key is not None
            content = event.content
            self.members[event.state_key] = (content["membership"], content.get("displayname", ""))
        thread = self._thread(event)
        self.threads[event.event_id] = thread
        self.ordinals[event.event_id] = ordinal
        joined = [user for user, (membership, _) in self.members.items() if membership == "join"]
        judged = PushEvent(event.pdu, event.room_id, len(joined), levels, in_thread=bool(thread))
        counts: dict[str, tuple[int, int]] = {}
        for user in self.members:
            if user == event.sender or not user.endswith(f":{SERVER}"):
                continue
            invited = event.type == "m.room.member" and event.state_key == user and self.members[user][0] == "invite"
            if user in joined or invited:
                changes, ignored = self.rules.get(user, (NO_CHANGES, frozenset()))
                outcome = UserRules(changes, ALL_OFF).evaluate(judged, Recipient(UserId(user), self.members[user][1]))
                counts[user] = (0, 0) if event.sender in ignored else (outcome.notifies, outcome.highlights)
        self.counted[ordinal] = (thread, counts)
        if redacts and event.redacts in self.ordinals:
            self.redacted.setdefault(self.ordinals[event.redacts], ordinal)

    def _thread(self, event: Event) -> str:
        relation = event.content.get("m.relates_to")
        if event.state_key is not None or not isinstance(relation, dict):
            return ""
        kind, target = relation.get("rel_type"), str(relation.get("event_id"))
        if not kind:
            return ""
        return target if kind == "m.thread" else self.threads.get(target, "")


class Stored:
    """The stored counts of a room, by ordinal."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.groups: dict[str, list[tuple[int, int]]] = {}
        self.exceptions: dict[tuple[int, str], tuple[int, int]] = {}
        self.totals: dict[tuple[int, str, int], tuple[int, int]] = {}
        self.taken: dict[tuple[int, int], tuple[str, int, int, int]] = {}
        self.own: dict[tuple[str, str], int] = {}

    @classmethod
    async def read(cls, persister: Persister, room_id: RoomId) -> "Stored":
        stored = cls()
        database = persister.foundation.database
        async with database.snapshot() as snapshot:
            async for page in pages(snapshot, EVENTS, 0, 100):
                stored.rows += [row for row in page if row["room_id"] == room_id]
        room_nid = stored.rows[0]["room_nid"]
        for user, at, group in await persister.sql(
            "SELECT user_id, from_ordinal, group_id FROM push_members WHERE room_nid = $1 ORDER BY 2", room_nid
        ):
            stored.groups.setdefault(user, []).append((at, group))
        for user, at, *counts in await persister.sql(
            "SELECT user_id, ordinal, notifies, highlights FROM push_exceptions WHERE room_nid = $1", room_nid
        ):
            stored.exceptions[at, user] = (counts[0], counts[1])
        for group, thread, at, *counts in await persister.sql(
            """SELECT group_id, thread_id, ordinal, notifies, highlights FROM push_counters
               WHERE room_nid = $1 ORDER BY ordinal""",
            room_nid,
        ):
            stored.totals[group, thread, at] = (counts[0], counts[1])
        for group, at, *rest in await persister.sql(
            """SELECT group_id, ordinal, thread_id, notifies, highlights, by_ordinal FROM push_redacted
               WHERE room_nid = $1""",
            room_nid,
        ):
            stored.taken[at, group] = tuple(rest)
        for user, thread, at in await persister.sql(
            "SELECT user_id, thread_id, ordinal FROM push_own WHERE room_nid = $1", room_nid
        ):
            stored.own[user, thread] = at
        assert await get_wrong_totals(database, room_nid, 10) == []
        return stored

    def group_of(self, user: str, ordinal: int) -> int:
        return next((group for at, group in reversed(self.groups.get(user, [])) if at <= ordinal), DEFAULT_GROUP)

    def counted(self, ordinal: int, thread: str, user: str, *, joined: bool) -> tuple[int, int]:
        """Return the counts of one event for one user, without redacted events."""
        group = self.group_of(user, ordinal)
        now = self.totals.get((group, thread, ordinal)) if joined else None
        counts = (0, 0)
        if now is not None:
            earlier = [at for g, t, at in self.totals if (g, t) == (group, thread) and at < ordinal]
            before = self.totals[group, thread, max(earlier)] if earlier else (0, 0)
            counts = (now[0] - before[0], now[1] - before[1])
            if (ordinal, group) in self.taken:
                _, notifies, highlights, _ = self.taken[ordinal, group]
                counts = (counts[0] - notifies, counts[1] - highlights)
        own = self.exceptions.get((ordinal, user), (0, 0))
        return counts[0] + own[0], counts[1] + own[1]


async def check(persister: Persister, room_id: RoomId, model: Model) -> Stored:
    """Check that the stored counts of each event and member equal the model's."""
    stored = await Stored.read(persister, room_id)
    assert [row["ordinal"] for row in stored.rows] == list(model.counted)
    for row in stored.rows:
        ordinal, (thread, counts) = row["ordinal"], model.counted[row["ordinal"]]
        assert row["thread_id"] == thread, (ordinal, row["json"])
        is_invite = re.search(rb'"membership":"invite"', row["json"]) is not None
        for user, wanted in counts.items():
            found = stored.counted(ordinal, thread, user, joined=not (is_invite and row["state_key"] == user))
            wanted = (0, 0) if ordinal in model.redacted else wanted
            assert found == wanted, (ordinal, user, model.rules.get(user), row["json"])
        for user in {user for at, user in stored.exceptions if at == ordinal}:
            assert user in counts, f"{user} is not a member, or sent the event"
    for (user, thread), at in stored.own.items():
        row = stored.rows[at - 1]
        assert (row["sender"], row["thread_id"]) == (user, thread)
    # A user's later event may be left out if nothing was counted in between.
    counting = [(row["ordinal"], row["thread_id"]) for row in stored.rows if row["push"] or row["push_users"]]
    for row in stored.rows:
        if row["sender"].endswith(f":{SERVER}"):
            at = stored.own[row["sender"], row["thread_id"]]
            between = [one for one, thread in counting if at < one <= row["ordinal"] and thread == row["thread_id"]]
            assert not between, (row["sender"], row["ordinal"], at)
    return stored


async def take_timeline(persister: Persister, room_id: RoomId, model: Model) -> None:
    """Add new events of the timeline to the model, evaluated with its current rules."""
    version = get_room_version(model.version_name)
    for row in await persister.timeline(room_id):
        if row["ordinal"] is not None and row["ordinal"] not in model.counted:
            redacts = row["redacts_nid"] is not None
            model.take(parse_event(version, row["json"]), row["ordinal"], redacts=redacts)


def check_announced(persister: Persister, stored: Stored, room_id: RoomId) -> None:
    """Check that the announced rows equal those that readers find in the database."""
    by_position = {row["position"]: row for row in stored.rows}
    announced = [row for row in persister.bus.rows() if row.room_id == room_id]
    assert announced
    for row in announced:
        found = by_position[row.position]
        assert row.thread_id == found["thread_id"]
        for name in ("push", "push_users", "push_groups"):
            assert set(getattr(row, name)) == set(found[name]), name
        told = {(at, thread): (set(g), set(u)) for at, thread, g, u in row.push_redacted}
        assert told == {(at, thread): (set(g), set(u)) for at, thread, g, u in found["push_redacted"]}
