"""Push rule evaluation for the events of one room: for its groups, and for the users that an index names.

Members without rules of their own here are only counted, however many they are. A change of a user's rules is known
here at once. In the room it takes effect with the next event, which carries it (`EventOutcome.group_changes`).

Members come and go with events that may be undone. Undoing an event also undoes its changes here (`take_back`).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import islice
from typing import Protocol

from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules.budget import share_of
from shared.core.push_rules.conditions import Recipient
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.evaluation import (
    DEFAULT_GROUP,
    NO_TRIGGERS,
    RoomRules,
    SharedRules,
    Triggers,
    UserRules,
    user_rules,
)
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.push_rules.ignored_users import IgnoredUsers
from shared.core.push_rules.push_event import PushEvent

_MEMBER_BYTES = 500  # with its places in the dictionaries here
_TRIGGER_BYTES = 400  # a key of an index, with the set of its users
_RECORDED_BYTES = 150
#: More named users than these are looked up, to count those with rules of their own.
_FEW_USERS = 8
#: Users of a group that are named when its rules took too many steps.
_NAMED_OF_GROUP = 3


class RulesOfUser(Protocol):
    """A user's rules, compiled, and the users whom they ignore. All rooms of a process share one object."""

    @property
    def rules(self) -> UserRules: ...

    @property
    def ignored(self) -> Collection[UserId]: ...


class _Member:
    """A user whose rules or ignore list have an effect of their own in this room. They need not be joined."""

    __slots__ = ("display_name", "here", "ignores", "joined", "owner", "rules", "triggers")

    def __init__(self, owner: RulesOfUser, room_id: RoomId, *, joined: bool, name: str | None) -> None:
        self.owner = owner  # lives as long as a room needs it
        self.rules = owner.rules
        self.here: RoomRules = self.rules.in_room(room_id)
        self.ignores = bool(owner.ignored)
        self.joined = joined
        self.display_name = name
        self.triggers: Triggers = NO_TRIGGERS

    @property
    def shared(self) -> SharedRules:
        return self.here.shared

    @property
    def is_like_all(self) -> bool:
        """True if this user can never differ from the default group here."""
        own = self.triggers != NO_TRIGGERS or self.ignores or self.here.uses_display_name
        return not own and self.shared.group == DEFAULT_GROUP

    @property
    def size_bytes(self) -> int:
        triggers = len(self.triggers.words) + len(self.triggers.senders)
        return _MEMBER_BYTES + _TRIGGER_BYTES * triggers + self.here.size_in_room_bytes


class RoomEvaluator:
    """The state for evaluating push rules in one room.

    joined: the number of members on all servers.
    local: the number of local members, whose events are counted here.
    """

    def __init__(self, room_id: RoomId) -> None:
        self.room_id = room_id
        self.joined = 0
        self.local = 0
        self.use(ALL_OFF, IgnoredUsers())
        self._members: dict[UserId, _Member] = {}
        self._members_bytes = 0
        # Group -> its rules and the number of its joined members, without DEFAULT_GROUP.
        self._groups: dict[int, tuple[SharedRules, int]] = {}
        self._in_groups = 0  # the sum of these numbers
        self._counted_groups = 0  # the number of groups whose steps are counted
        self._words: dict[str, set[UserId]] = {}
        self._senders: dict[str, set[UserId]] = {}
        self._recorded: dict[UserId, int] = {}  # user -> the group in the room's events, if not DEFAULT_GROUP
        self._due: set[UserId] = set()  # users whose group may differ from the recorded one
        #: Joined members with rules about their display name, which is not known.
        self.unnamed: set[UserId] = set()
        self._undo: deque[tuple[int, Callable[[], None]]] = deque()

    def use(self, switches: RuleSwitches, ignored_users: IgnoredUsers) -> None:
        """Set the default rules and the index of ignored users. Must be called before any evaluation."""
        self._default_rules = user_rules(b"", switches).in_room(self.room_id)
        self._default = self._default_rules.shared
        self._ignored_users = ignored_users

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes, without the compiled rules, which rooms share."""
        return self._members_bytes + _RECORDED_BYTES * len(self._recorded)

    def has(self, user_id: UserId) -> bool:
        """Return True if this user's rules are kept here."""
        return user_id in self._members

    def name_of(self, user_id: UserId) -> str | None:
        """Return a user's display name, "" if they have none, None if it is not known here."""
        member = self._members.get(user_id)
        return None if member is None else member.display_name

    # -- rules

    def set_rules(self, user_id: UserId, owner: RulesOfUser, *, joined: bool, name: str | None) -> None:
        """Set a user's rules. joined: True if they are joined now. name: their display name here, None if unknown."""
        former = self._members.get(user_id)
        if former is not None:
            if former.owner is owner and former.rules is owner.rules and former.ignores == bool(owner.ignored):
                return  # another entry of their ignore list
            del self._members[user_id]
            self._leave_index(user_id, former)
            if former.joined:
                self._count(former.shared, -1)
        member = _Member(owner, self.room_id, joined=joined, name=name)
        self._due.add(user_id)
        member.triggers = member.here.triggers(Recipient(user_id, member.display_name or ""))
        self._note_unnamed(user_id, member)
        if member.is_like_all:
            return
        self._members[user_id] = member
        self._enter_index(user_id, member)
        if joined:
            self._count(member.shared, 1)

    def set_recorded(self, groups: Mapping[UserId, int]) -> None:
        """Take the groups that the room's stored events name last."""
        self._recorded.update(groups)
        self._due.update(groups)

    # -- members

    def member_changed(
        self, ordinal: int, user_id: UserId, before: str | None, now: str | None, *, local: bool, name: str
    ) -> None:
        """Apply the membership change of the event at this ordinal. name: the user's display name after it."""
        step = (now == "join") - (before == "join")
        if step:
            self._step(user_id, step, local)
            self._undo.append((ordinal, partial(self._step, user_id, -step, local)))
        member = self._members.get(user_id)
        if member is not None and member.display_name != name:
            self._undo.append((ordinal, partial(self.rename, user_id, member.display_name)))
            self.rename(user_id, name)

    def take_back(self, ordinal: int) -> None:
        """Undo the changes of the events after this one."""
        while self._undo and self._undo[-1][0] > ordinal:
            self._undo.pop()[1]()

    def settle(self, ordinal: int) -> None:
        """Drop the undo information of the events up to this one. They are stored."""
        while self._undo and self._undo[0][0] <= ordinal:
            self._undo.popleft()

    # -- judging

    def evaluate(
        self,
        ordinal: int,
        event: PushEvent,
        thread_id: str,
        membership: Callable[[UserId], str | None],
        subscribers: Collection[UserId] = (),
        *,
        is_automatic: bool = False,
    ) -> EventOutcome:
        """Return the outcome of the event at this ordinal, and record its group changes.

        membership: the membership of a local user after the event; None for other users.
        subscribers: users who are subscribed to the event's thread. They are evaluated individually.
        is_automatic: True if the event is no read mark of its sender. What it counts for their group is then taken back
            for them.
        """
        group_changes = self._group_changes(ordinal, membership) if self._due else ()
        sender_here = membership(event.sender) == "join"
        groups: dict[int, tuple[int, int]] = {}
        named: AbstractSet[UserId] = frozenset()
        if self.local > sender_here:
            named = self._named(event, subscribers)
            if self._counted_groups or named:
                event.allowed_steps = share_of(self._counted_groups + self._count_own(named))
            groups = self._judge_groups(event, sender_here)
            if is_automatic and sender_here:
                named |= {event.sender}
        elif event.value(("type",)) == "m.room.member":
            named = event.named_users()  # no member to notify, but the event may invite one
        users = self._judge_users(event, named, groups, membership, subscribers) if named else ()
        notified = tuple((group, *counts) for group, counts in groups.items() if counts[0])
        if not (notified or users or group_changes or thread_id):
            return COUNTS_NOTHING
        return EventOutcome(thread_id=thread_id, groups=notified, users=users, group_changes=group_changes)

    def _judge_groups(self, event: PushEvent, sender_here: bool) -> dict[int, tuple[int, int]]:
        """Return (notifies, highlights) for each group with a member other than the sender."""
        sender = self._members.get(event.sender)
        own = None if not sender_here else DEFAULT_GROUP if sender is None else sender.shared.group
        groups: dict[int, tuple[int, int]] = {}
        if self.local - self._in_groups > (own == DEFAULT_GROUP):
            groups[DEFAULT_GROUP] = self._default.evaluate(event)
        for group, (shared, count) in self._groups.items():
            if count > (own == group):
                groups[group] = shared.evaluate(event)
                if shared.counted and event.steps_left < 0:
                    of_group = (user for user, member in self._members.items() if member.shared is shared)
                    event.exceeded_by.extend(islice(of_group, _NAMED_OF_GROUP))
        return groups

    def _count_own(self, named: AbstractSet[UserId]) -> int:
        """Return about how many of these users have rules of their own."""
        return len(named) if len(named) <= _FEW_USERS else len(self._members.keys() & named)

    def _named(self, event: PushEvent, subscribers: Collection[UserId]) -> set[UserId]:
        """Return the users who need individual evaluation. Some may not be members."""
        named = {*event.named_users(), *subscribers}
        if self._words:
            for key in event.word_keys():
                named.update(self._words.get(key, ()))
        if self._senders:
            named.update(self._senders.get(event.sender_key(), ()))
        if ignorers := self._ignored_users.ignorers_of(event.sender):
            named.update(self._members.keys() & ignorers)
        named.discard(event.sender)
        return named

    def _judge_users(
        self,
        event: PushEvent,
        named: Iterable[UserId],
        groups: Mapping[int, tuple[int, int]],
        membership: Callable[[UserId], str | None],
        subscribers: Collection[UserId],
    ) -> tuple[tuple[UserId, int, int], ...]:
        users = []
        ignorers = self._ignored_users.ignorers_of(event.sender)
        for user_id in sorted(named):
            now = membership(user_id)
            if now != "join" and not (now == "invite" and _is_membership_of(event, user_id)):
                continue
            member = self._members.get(user_id)
            notifies = highlights = 0
            if user_id not in ignorers:
                notifies, highlights = self._outcome(event, user_id, member, user_id in subscribers)
            if now == "join":
                group = DEFAULT_GROUP if member is None else member.shared.group
                of_group = groups.get(group, (0, 0))
                notifies, highlights = notifies - of_group[0], highlights - of_group[1]
            if notifies or highlights:
                users.append((user_id, notifies, highlights))
        return tuple(users)

    def _outcome(self, event: PushEvent, user_id: UserId, member: _Member | None, subscribed: bool) -> tuple[int, int]:
        if member is None:
            outcome = self._default_rules.evaluate(event, Recipient(user_id, subscribed=subscribed))
        else:
            outcome = member.here.evaluate(event, Recipient(user_id, member.display_name or "", subscribed))
            if member.here.counted and event.steps_left < 0:
                event.exceeded_by.append(user_id)
        return outcome.notifies, outcome.highlights

    # -- groups and index

    def _group_changes(
        self, ordinal: int, membership: Callable[[UserId], str | None]
    ) -> tuple[tuple[UserId, int], ...]:
        group_changes = []
        for user_id in sorted(self._due):
            if membership(user_id) != "join":
                continue  # they are due again when they join
            member = self._members.get(user_id)
            group = DEFAULT_GROUP if member is None else member.shared.group
            former = self._recorded.get(user_id, DEFAULT_GROUP)
            if group != former:
                group_changes.append((user_id, group))
                self._recorded[user_id] = group
                self._undo.append((ordinal, partial(self._record_again, user_id, former)))
        self._due.clear()
        return tuple(group_changes)

    def _record_again(self, user_id: UserId, group: int) -> None:
        self._recorded[user_id] = group
        self._due.add(user_id)

    def _step(self, user_id: UserId, step: int, local: bool) -> None:
        """Count a user who has joined (1), or is no longer joined (-1)."""
        self.joined += step
        if not local:
            return
        self.local += step
        member = self._members.get(user_id)
        if member is not None:
            member.joined = step > 0
            self._count(member.shared, step)
        if step > 0 and (member is not None or user_id in self._recorded):
            self._due.add(user_id)

    def _count(self, shared: SharedRules, step: int) -> None:
        if shared.group == DEFAULT_GROUP:
            return
        self._in_groups += step
        former = self._groups.get(shared.group, (shared, 0))[1]
        count = former + step
        if count:
            self._groups[shared.group] = (shared, count)
        else:
            del self._groups[shared.group]
        self._counted_groups += shared.counted * ((count > 0) - (former > 0))

    def rename(self, user_id: UserId, name: str | None) -> None:
        """Set a member's display name."""
        member = self._members.get(user_id)
        if member is None:
            return
        member.display_name = name
        if member.here.uses_display_name:
            self._leave_index(user_id, member)
            member.triggers = member.here.triggers(Recipient(user_id, name or ""))
            self._enter_index(user_id, member)
        self._note_unnamed(user_id, member)

    def _note_unnamed(self, user_id: UserId, member: _Member) -> None:
        if member.display_name is None and member.here.uses_display_name and member.joined:
            self.unnamed.add(user_id)
        else:
            self.unnamed.discard(user_id)

    def _enter_index(self, user_id: UserId, member: _Member) -> None:
        self._members_bytes += member.size_bytes
        for index, keys in self._index_entries(member):
            for key in keys:
                index.setdefault(key, set()).add(user_id)

    def _leave_index(self, user_id: UserId, member: _Member) -> None:
        self._members_bytes -= member.size_bytes
        for index, keys in self._index_entries(member):
            for key in keys:
                index[key].discard(user_id)
                if not index[key]:
                    del index[key]

    def _index_entries(self, member: _Member) -> tuple[tuple[dict[str, set[UserId]], frozenset[str]], ...]:
        return (self._words, member.triggers.words), (self._senders, member.triggers.senders)


def _is_membership_of(event: PushEvent, user_id: UserId) -> bool:
    return bool(event.value(("type",)) == "m.room.member" and event.value(("state_key",)) == user_id)
