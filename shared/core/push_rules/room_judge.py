"""Who is to be judged for an event in a room: its groups, and the few whom an index names.

Everybody whose rules say nothing of their own here is one number, however many they are. What a rule set changes is
known at once; in the room it holds from the next event on, which carries the change (`EventOutcome.group_changes`).

Members come and go with events that may be taken back: what an event changed here is undone with it (`take_back`).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial

from shared.core.push_rules.conditions import Reader
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.push_rules.judged_event import JudgedEvent
from shared.core.push_rules.judging import (
    DEFAULT_GROUP,
    NO_TRIGGERS,
    SharedRules,
    Triggers,
    UserRules,
    individual_triggers,
    shared_part,
    user_rules,
)


class _Member:
    """One whose rules, or ignore list, say something of his own in this room. He need not be joined (any more)."""

    __slots__ = ("display_name", "ignored", "joined", "rules", "shared", "triggers")

    def __init__(
        self, rules: UserRules, ignored: frozenset[str], room_id: str, *, joined: bool, name: str | None
    ) -> None:
        self.rules = rules
        self.ignored = ignored
        self.joined = joined
        self.display_name = name
        self.shared = shared_part(rules, room_id)
        self.triggers: Triggers = NO_TRIGGERS

    @property
    def is_like_all(self) -> bool:
        """Whether nothing of his own can ever matter here."""
        own = self.triggers != NO_TRIGGERS or self.ignored or self.rules.uses_display_name
        return not own and self.shared.group == DEFAULT_GROUP


class RoomJudge:
    """joined: members of all servers; local: those of them whose events are counted here."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.joined = 0
        self.local = 0
        self.use(ALL_OFF)
        self._members: dict[str, _Member] = {}
        self._groups: dict[int, tuple[SharedRules, int]] = {}  # but DEFAULT_GROUP; with its joined members' number
        self._in_groups = 0  # the sum of these
        self._words: dict[str, set[str]] = {}
        self._senders: dict[str, set[str]] = {}
        self._ignorers: dict[str, set[str]] = {}
        self._recorded: dict[str, int] = {}  # the group that the room's events name; none: DEFAULT_GROUP
        self._due: set[str] = set()  # perhaps in another group than recorded
        #: Joined members whose display names matter and are not known.
        self.unnamed: set[str] = set()
        self._undo: deque[tuple[int, Callable[[], None]]] = deque()

    def use(self, switches: RuleSwitches) -> None:
        """Judge by the default rules that these add. To be called before anything is judged."""
        self._default_rules = user_rules(b"", switches)
        self._default = shared_part(self._default_rules, self.room_id)

    @property
    def size(self) -> int:
        """How many users it has something of."""
        return len(self._members) + len(self._recorded)

    def has(self, user_id: str) -> bool:
        """Return whether something of this user's own is known here."""
        return user_id in self._members

    def name_of(self, user_id: str) -> str | None:
        """Return the display name by which a user is known here, "" for none, None where that is not known."""
        member = self._members.get(user_id)
        return None if member is None else member.display_name

    # -- rules

    def set_rules(
        self, user_id: str, rules: UserRules, ignored: Iterable[str], *, joined: bool, name: str | None
    ) -> None:
        """Take in a user's present rules. joined: he is, now; name: his display name here, None: not known."""
        former = self._members.pop(user_id, None)
        if former is not None:
            self._leave_index(user_id, former)
            if former.joined:
                self._count(former.shared, -1)
        member = _Member(rules, frozenset(ignored), self.room_id, joined=joined, name=name)
        self._set_triggers(user_id, member)
        self._due.add(user_id)
        self._note_unnamed(user_id, member)
        if member.is_like_all:
            return
        self._members[user_id] = member
        if joined:
            self._count(member.shared, 1)

    def set_recorded(self, groups: Mapping[str, int]) -> None:
        """Take in the groups that the room's stored events name last."""
        self._recorded.update(groups)
        self._due.update(groups)

    # -- members

    def member_changed(
        self, ordinal: int, user_id: str, before: str | None, now: str | None, *, local: bool, name: str
    ) -> None:
        """Take in a membership that the event at this ordinal changes. name: his display name after it."""
        step = (now == "join") - (before == "join")
        if step:
            self._step(user_id, step, local)
            self._undo.append((ordinal, partial(self._step, user_id, -step, local)))
        member = self._members.get(user_id)
        if member is not None and member.display_name != name:
            self._undo.append((ordinal, partial(self.rename, user_id, member.display_name)))
            self.rename(user_id, name)

    def take_back(self, ordinal: int) -> None:
        """The events after this one were taken back."""
        while self._undo and self._undo[-1][0] > ordinal:
            self._undo.pop()[1]()

    def settle(self, ordinal: int) -> None:
        """The events up to this one are stored: they are not taken back any more."""
        while self._undo and self._undo[0][0] <= ordinal:
            self._undo.popleft()

    # -- judging

    def judge(
        self,
        ordinal: int,
        event: JudgedEvent,
        thread_id: str,
        membership: Callable[[str], str | None],
        subscribers: Collection[str] = (),
    ) -> EventOutcome:
        """Return what the event at this ordinal counts, and take its changes of groups in.

        membership: of a user of this server, the event applied; None of anybody else. subscribers: users who are
        subscribed to the event's thread: each is judged for himself.
        """
        group_changes = self._group_changes(ordinal, membership) if self._due else ()
        sender_here = membership(event.sender) == "join"
        groups: dict[int, tuple[int, int]] = {}
        named: AbstractSet[str] = frozenset()
        if self.local > sender_here:
            groups, named = self._judge_groups(event, sender_here), self._named(event, subscribers)
        elif event.value(("type",)) == "m.room.member":
            named = event.named_users()  # nobody else is here, but whom it may invite
        users = self._judge_users(event, named, groups, membership, subscribers) if named else ()
        notified = tuple((group, *counts) for group, counts in groups.items() if counts[0])
        if not (notified or users or group_changes or thread_id):
            return COUNTS_NOTHING
        return EventOutcome(thread_id=thread_id, groups=notified, users=users, group_changes=group_changes)

    def _judge_groups(self, event: JudgedEvent, sender_here: bool) -> dict[int, tuple[int, int]]:
        """Return (notifies, highlights) per group in which somebody else than the sender is."""
        sender = self._members.get(event.sender)
        own = None if not sender_here else DEFAULT_GROUP if sender is None else sender.shared.group
        groups: dict[int, tuple[int, int]] = {}
        if self.local - self._in_groups > (own == DEFAULT_GROUP):
            groups[DEFAULT_GROUP] = self._default.judge(event)
        for group, (shared, count) in self._groups.items():
            if count > (own == group):
                groups[group] = shared.judge(event)
        return groups

    def _named(self, event: JudgedEvent, subscribers: Collection[str]) -> set[str]:
        """Return those who must be judged for themselves, among others who are not here."""
        named = {*event.named_users(), *subscribers}
        if self._words:
            for key in event.word_keys():
                named.update(self._words.get(key, ()))
        if self._senders:
            named.update(self._senders.get(event.sender_key(), ()))
        if self._ignorers:
            named.update(self._ignorers.get(event.sender, ()))
        named.discard(event.sender)
        return named

    def _judge_users(
        self,
        event: JudgedEvent,
        named: Iterable[str],
        groups: Mapping[int, tuple[int, int]],
        membership: Callable[[str], str | None],
        subscribers: Collection[str],
    ) -> tuple[tuple[str, int, int], ...]:
        users = []
        for user_id in sorted(named):
            now = membership(user_id)
            if now != "join" and not (now == "invite" and _is_membership_of(event, user_id)):
                continue
            member = self._members.get(user_id)
            notifies, highlights = self._outcome(event, user_id, member, user_id in subscribers)
            if now == "join":
                group = DEFAULT_GROUP if member is None else member.shared.group
                of_group = groups.get(group, (0, 0))
                notifies, highlights = notifies - of_group[0], highlights - of_group[1]
            if notifies or highlights:
                users.append((user_id, notifies, highlights))
        return tuple(users)

    def _outcome(
        self, event: JudgedEvent, user_id: str, member: _Member | None, subscribed: bool
    ) -> tuple[int, int]:  # fmt: skip
        if member is None:
            outcome = self._default_rules.judge(event, Reader(user_id, subscribed=subscribed))
        elif event.sender in member.ignored:
            return 0, 0
        else:
            outcome = member.rules.judge(event, Reader(user_id, member.display_name or "", subscribed))
        return outcome.notifies, outcome.highlights

    # -- one's place in the groups and the index

    def _group_changes(self, ordinal: int, membership: Callable[[str], str | None]) -> tuple[tuple[str, int], ...]:
        group_changes = []
        for user_id in sorted(self._due):
            if membership(user_id) != "join":
                continue  # when he joins he is due again
            member = self._members.get(user_id)
            group = DEFAULT_GROUP if member is None else member.shared.group
            former = self._recorded.get(user_id, DEFAULT_GROUP)
            if group != former:
                group_changes.append((user_id, group))
                self._recorded[user_id] = group
                self._undo.append((ordinal, partial(self._record_again, user_id, former)))
        self._due.clear()
        return tuple(group_changes)

    def _record_again(self, user_id: str, group: int) -> None:
        self._recorded[user_id] = group
        self._due.add(user_id)

    def _step(self, user_id: str, step: int, local: bool) -> None:
        """One has joined (1), or is not joined any more (-1)."""
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
        count = self._groups.get(shared.group, (shared, 0))[1] + step
        if count:
            self._groups[shared.group] = (shared, count)
        else:
            del self._groups[shared.group]

    def rename(self, user_id: str, name: str | None) -> None:
        """Take in a member's display name."""
        member = self._members.get(user_id)
        if member is None:
            return
        self._leave_index(user_id, member)
        member.display_name = name
        self._set_triggers(user_id, member)
        self._note_unnamed(user_id, member)

    def _note_unnamed(self, user_id: str, member: _Member) -> None:
        if member.display_name is None and member.rules.uses_display_name and member.joined:
            self.unnamed.add(user_id)
        else:
            self.unnamed.discard(user_id)

    def _set_triggers(self, user_id: str, member: _Member) -> None:
        member.triggers = individual_triggers(member.rules, self.room_id, member.display_name or "")
        for index, keys in self._index_entries(member):
            for key in keys:
                index.setdefault(key, set()).add(user_id)

    def _leave_index(self, user_id: str, member: _Member) -> None:
        for index, keys in self._index_entries(member):
            for key in keys:
                index[key].discard(user_id)
                if not index[key]:
                    del index[key]

    def _index_entries(self, member: _Member) -> tuple[tuple[dict[str, set[str]], frozenset[str]], ...]:
        triggers = member.triggers
        return (self._words, triggers.words), (self._senders, triggers.senders), (self._ignorers, member.ignored)


def _is_membership_of(event: JudgedEvent, user_id: str) -> bool:
    return bool(event.value(("type",)) == "m.room.member" and event.value(("state_key",)) == user_id)
