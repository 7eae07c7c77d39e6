"""The push rules of a room's members and the threads of its latest events: what counting an event needs.

`loading/push_rules.py` reads what is not known before an event is built, so that building never waits: the rules of a
user who comes in, the thread of an event to which a new one relates, a display name that some user's rules look for.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from shared.core.events import Event
from shared.core.events.readers import PowerLevels
from shared.core.events.relation import THREAD, Relation, relation_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules import PushEvent, RuleSwitches
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.push_rules.ignored_users import IgnoredUsers
from shared.core.push_rules.room_evaluator import RoomEvaluator
from shared.core.rows import NO_DEVICE
from shared.core.unread import DUMMY
from workers.event_persister.room.drafts import BuiltEvent, EntryChange, StateEntry
from workers.event_persister.room.known_rules import KnownRules
from workers.event_persister.room.thread_subscribers import ThreadSubscribers

MEMBER = "m.room.member"
#: Events whose threads are remembered. Reactions and edits mostly relate to one of the latest.
_MAX_THREADS = 20
#: Users with default rules who are about to come in. A new room may invite 900 at once.
_MAX_GUESTS = 2000
_MAX_MARKED = 100
#: Longer display names are not looked for in messages: they would be in memory for each room.
_MAX_NAME = 1000
_APPLIED_AT_ONCE = 50  # changes of rules
_POSITION_BYTES = 150
_THREAD_BYTES = 350
_GUEST_BYTES = 250


@dataclass(slots=True)
class Lacking:
    """The rules, names and threads that must be read before an event can be built.

    users: those whose rules are needed.
    changed: rules that changed, and are not yet compiled or applied.
    names: members whose display names here are needed.
    events: those whose threads are needed.
    threads: those whose subscribers are needed.
    """

    users: set[UserId] = field(default_factory=set)
    changed: Collection[KnownRules] = ()
    names: set[UserId] = field(default_factory=set)
    events: set[EventId] = field(default_factory=set)
    threads: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.users or self.changed or self.names or self.events or self.threads)


class RoomSeen(Protocol):
    """The part of `RoomState` used here, which imports this module."""

    def membership(self, user_id: UserId) -> str | None: ...

    def built_event(self, event_id: EventId) -> BuiltEvent | None: ...


class RoomPush:
    def __init__(self, room_id: RoomId, server_name: str) -> None:
        self.evaluator = RoomEvaluator(room_id)
        self._room: Callable[[], RoomSeen | None] = _no_room
        self._suffix = ":" + server_name
        self._positions: dict[UserId, int] = {}
        self._guests: OrderedDict[UserId, None] = OrderedDict()
        self._threads: OrderedDict[EventId, str] = OrderedDict()
        self._subscribers: ThreadSubscribers | None = None
        self._arrived: dict[UserId, KnownRules] = {}  # while rules are being read
        self._changed: dict[UserId, KnownRules] = {}  # not yet applied: rules that changed since the latest event
        self._on_exceeded: Callable[[RoomId, Sequence[UserId]], None] = _ignore
        self._reading = 0
        #: (sender, thread) of own events since any event was counted. Further ones change nothing.
        self._marked: set[tuple[str, str]] = set()

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        subscribers = 0 if self._subscribers is None else self._subscribers.size_bytes
        return (
            self.evaluator.size_bytes
            + _POSITION_BYTES * len(self._positions)
            + _THREAD_BYTES * len(self._threads)
            + _GUEST_BYTES * len(self._guests)
            + subscribers
        )

    @property
    def subscribers(self) -> ThreadSubscribers | None:
        """The subscribers of the room's threads, None if MSC4306 is off."""
        return self._subscribers

    def use(
        self,
        switches: RuleSwitches,
        ignored_users: IgnoredUsers,
        on_exceeded: Callable[[RoomId, Sequence[UserId]], None],
    ) -> None:
        """Set what all rooms share. Must be called before any event is counted.

        switches: the experimental rules.
        on_exceeded: called for users whose rules would have taken too many steps with an event.
        """
        self.evaluator.use(switches, ignored_users)
        self._on_exceeded = on_exceeded
        if switches.thread_subscriptions:
            self._subscribers = ThreadSubscribers()

    def belong_to(self, room: RoomSeen) -> None:
        """Attach this to its room."""
        self._room = weakref.ref(room)  # a strong reference would keep a dropped room until garbage collection

    def count_member(self, user_id: UserId) -> None:
        """Add a joined member of a room that is being read."""
        self.evaluator.joined += 1
        self.evaluator.local += user_id.endswith(self._suffix)

    # -- what must be read before

    def lacking(self, drafts: Iterable[Any]) -> Lacking | None:
        """Return what must be read before these drafts, or received events, can be built. None: nothing."""
        if self._changed:
            self._apply_changed()
        lacking = Lacking(names=self.evaluator.unnamed, changed=self._changed.values())
        for draft in drafts:
            if draft.type == MEMBER:
                if isinstance(draft.state_key, str):
                    self._lack_user(lacking, UserId(draft.state_key), draft.content.get("membership"))
            elif "m.relates_to" in draft.content and draft.state_key is None:
                relation = relation_of(draft.content)
                if relation is not None:
                    self._lack_thread(lacking, relation)
        return lacking if lacking else None

    def _lack_thread(self, lacking: Lacking, relation: Relation) -> None:
        is_in = relation.rel_type == THREAD
        thread_id = relation.event_id if is_in else self._known_thread(relation.event_id)
        if thread_id is None:
            lacking.events.add(relation.event_id)
        elif thread_id and self._subscribers is not None and not self._subscribers.knows(thread_id):
            lacking.threads.add(thread_id)

    def lacking_for(self, built: BuiltEvent) -> Lacking | None:
        """Return the same for an event whose place and changes are known."""
        lacking = self.lacking((built.event,)) or Lacking()
        for (kind, user_id), _, now in built.changes:
            if kind == MEMBER and now is not None:
                self._lack_user(lacking, UserId(user_id), now.membership)
        return lacking if lacking else None

    def _lack_user(self, lacking: Lacking, user_id: UserId, membership: object) -> None:
        if membership in ("join", "invite") and user_id.endswith(self._suffix) and not self._knows(user_id):
            lacking.users.add(user_id)

    def _knows(self, user_id: UserId) -> bool:
        return user_id in self._guests or self.evaluator.has(user_id) or self._membership(user_id) == "join"

    # -- rules

    def begin_reading(self) -> None:
        """Keep what the stream brings until `end_reading`, for the users who are being read."""
        self._reading += 1

    def take_read(self, read: Mapping[UserId, KnownRules]) -> None:
        """Add some of the rules that were read, before `end_reading`."""
        for user_id, known in read.items():
            if known.position >= self._positions.get(user_id, 0):
                self._set(user_id, known)

    def end_reading(self, read: Mapping[UserId, KnownRules]) -> None:
        """Add the rules that were read, and those that the stream brought meanwhile."""
        self.take_read(read)
        for user_id, known in self._arrived.items():
            self._take(user_id, known)
        self._reading -= 1
        if not self._reading:
            self._arrived.clear()

    def needs(self, user_id: UserId) -> bool:
        """Return True if changes of this user's rules matter here, or may while rules are being read."""
        return self._reading > 0 or self._knows(user_id)

    def take_row(self, user_id: UserId, known: KnownRules) -> None:
        """Take in a stream row of a user whom the room needs. It is applied with the next event."""
        if self._reading:
            self._arrived[user_id] = known
        self._take(user_id, known)

    def _take(self, user_id: UserId, known: KnownRules) -> None:
        if known.position > self._positions.get(user_id, 0) and self._knows(user_id):
            self._positions[user_id] = known.position
            self._changed[user_id] = known

    def _apply_changed(self) -> None:
        """Apply changes, those that take no long. `load` compiles the others, and lets others run in between."""
        ready = (user_id for user_id, known in self._changed.items() if known.is_ready)
        for user_id in list(islice(ready, _APPLIED_AT_ONCE)):
            self._set(user_id, self._changed.pop(user_id))

    def _set(self, user_id: UserId, known: KnownRules) -> None:
        if known.position:
            self._positions[user_id] = known.position
        joined = self._membership(user_id) == "join"
        self.evaluator.set_rules(user_id, known, joined=joined, name=self.evaluator.name_of(user_id))
        if not joined and not self.evaluator.has(user_id):
            self._note_guest(user_id)

    def _note_guest(self, user_id: UserId) -> None:
        self._guests[user_id] = None
        self._guests.move_to_end(user_id)
        if len(self._guests) > _MAX_GUESTS:
            self._guests.popitem(last=False)

    # -- display names, threads

    def take_name(self, user_id: UserId, name: str) -> None:
        """Set the display name of a joined member: it was looked up, or its event was redacted."""
        self.evaluator.rename(user_id, name)

    def take_threads(self, event_ids: Iterable[EventId], threads: Mapping[EventId, str]) -> None:
        """Set the threads of events that were looked up. Those without one are in the main timeline."""
        for event_id in event_ids:
            self._note_thread(event_id, threads.get(event_id, ""))

    def _note_thread(self, event_id: EventId, thread_id: str) -> None:
        self._threads[event_id] = thread_id
        if len(self._threads) > _MAX_THREADS:
            self._threads.popitem(last=False)

    # -- events that take their places

    def member_changed(self, built: BuiltEvent, change: EntryChange) -> None:
        """Take in a change of a membership by an event."""
        assert built.ordinal is not None
        user_id, before, now = UserId(change.key[1]), change.before, change.now
        local = user_id.endswith(self._suffix)
        was = None if before is None else before.membership
        if local and was == "join" and (now is None or now.membership != "join") and not self.evaluator.has(user_id):
            self._note_guest(user_id)  # if the change is taken back, they are a member whose rules are known
        self.evaluator.member_changed(
            built.ordinal,
            user_id,
            was,
            None if now is None else now.membership,
            local=local,
            name=_name(built, now),
        )

    def count(self, built: BuiltEvent, levels: PowerLevels) -> EventOutcome:
        """Return what a live event counts, after its changes of the state. levels: the power levels before it."""
        assert built.ordinal is not None
        if built.graph.redacted_by is not None:
            return COUNTS_NOTHING  # its redaction came before it
        event = built.event
        if self._changed:
            self._apply_changed()
        thread_id = self._thread_of(event)
        self._note_thread(event.event_id, thread_id)
        push_event = PushEvent(
            event.pdu, self.evaluator.room_id, self.evaluator.joined, levels, in_thread=bool(thread_id)
        )
        subscribers = self._subscribers.of(thread_id) if self._subscribers is not None and thread_id else ()
        is_automatic = built.device == NO_DEVICE or event.type == DUMMY
        outcome = self.evaluator.evaluate(
            built.ordinal, push_event, thread_id, self._local_membership, subscribers, is_automatic=is_automatic
        )
        if push_event.exceeded_by:
            self._on_exceeded(self.evaluator.room_id, push_event.exceeded_by)
        if outcome.groups or outcome.users:
            self._marked.clear()
        mark = (event.sender, thread_id)
        if not event.sender.endswith(self._suffix) or is_automatic or mark in self._marked:
            return outcome
        if len(self._marked) >= _MAX_MARKED:
            self._marked.clear()
        self._marked.add(mark)
        return EventOutcome(
            thread_id=thread_id,
            groups=outcome.groups,
            users=outcome.users,
            group_changes=outcome.group_changes,
            is_mark=True,
        )

    def is_local(self, user_id: UserId) -> bool:
        """Return True for a user of this server."""
        return user_id.endswith(self._suffix)

    def take_back(self, ordinal: int) -> None:
        """Take back the events after an ordinal."""
        self.evaluator.take_back(ordinal)
        self._marked.clear()

    def _thread_of(self, event: Event) -> str:
        """Return the root of the thread in which an event is, "" for the main timeline."""
        if event.state_key is not None or "m.relates_to" not in event.content:
            return ""
        relation = relation_of(event.content)
        if relation is None:
            return ""
        return relation.event_id if relation.rel_type == THREAD else self._known_thread(relation.event_id) or ""

    def _known_thread(self, event_id: EventId) -> str | None:
        """Return the thread in which an event counts, None if that is not in memory."""
        thread_id = self._threads.get(event_id)
        if thread_id is None and (room := self._room()) is not None:
            pending = room.built_event(event_id)
            return None if pending is None else pending.push.thread_id
        return thread_id

    def _membership(self, user_id: UserId) -> str | None:
        room = self._room()
        return None if room is None else room.membership(user_id)

    def _local_membership(self, user_id: UserId) -> str | None:
        return self._membership(user_id) if user_id.endswith(self._suffix) else None


def _name(built: BuiltEvent, now: StateEntry | None) -> str:
    """Return the display name that a membership gives, "" for none."""
    if now is None or (now.event_nid == built.event_nid and built.graph.redacted_by is not None):
        return ""
    event = built.event if now.event_nid == built.event_nid else built.graph.brought.get(now.event_nid)
    return "" if event is None else display_name_in(event.content)


def display_name_in(content: Mapping[str, Any]) -> str:
    """Return the display name that the content of a member event gives, "" for none."""
    name = content.get("displayname")
    return name if isinstance(name, str) and len(name) <= _MAX_NAME else ""


def _no_room() -> None:
    """Return None: the room is still being read."""


def _ignore(room_id: RoomId, users: Sequence[UserId]) -> None:
    """Do nothing: the room is not followed."""
