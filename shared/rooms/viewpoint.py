"""PURE: what one user may see of one room's timeline.

Spec: client-server API, "Room history visibility". The state that decides is that *before* an event; for the user's
own membership events and for changes of the visibility, what they set counts as well. Most events have the room's
line before them; of those on forks and in history the states are looked up first (`branches`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from shared.core.visibility import may_see
from shared.rooms.timeline_event import HISTORY_VISIBILITY, MEMBER

#: (ordinal from which it holds, value), ordinals ascending.
History: TypeAlias = Sequence[tuple[int, str]]

#: Values by which whoever joins sees what was before.
_OPEN = frozenset({"shared", "world_readable"})


class Placed(Protocol):
    """What of an event decides who may see it: a `TimelineEvent`, or a row without its content."""

    @property
    def type(self) -> str: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def back(self) -> int: ...
    @property
    def state_nid(self) -> int | None: ...
    @property
    def membership(self) -> str | None: ...
    @property
    def visibility(self) -> str | None: ...


class BranchState(NamedTuple):
    """What decides of a state that is not the line's. None: the state has no such event."""

    visibility: str | None
    membership: str | None


def value_before(history: History, ordinal: int) -> str | None:
    """Return the value in force just before an ordinal."""
    place = bisect_left(history, (ordinal, ""))
    return history[place - 1][1] if place else None


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """One user's view of one room.

    visibility: the room's history visibility over time; "shared" before its first entry.
    memberships: the user's membership over time; for a fast path its last entry is enough when `joined_throughout`.
    joined_throughout_from: the user has been joined, without a break, from before this ordinal until now; None when
        he is not joined.
    end: nothing above this ordinal is his to see (he left there); None: no end.
    branches: snapshot -> what it holds; the reader of events adds to it. An event whose snapshot is not in it is
        judged by the line.
    """

    user_id: str
    visibility: History
    memberships: History
    joined_throughout_from: int | None = None
    end: int | None = None
    branches: dict[int, BranchState] = field(default_factory=dict)

    def may_see(self, event: Placed) -> bool:
        branch = self.branches.get(event.state_nid) if event.state_nid is not None else None
        ordinal = event.ordinal
        # Not *at* that ordinal: where state resolution made him joined, the event there isn't his.
        if branch is None and self.joined_throughout_from is not None and ordinal > self.joined_throughout_from:
            return True
        own = event.type == MEMBER and event.state_key == self.user_id
        if self.end is not None and (ordinal > self.end or (ordinal == self.end and not event.back)):
            # How it ended he is told in any case: an invite withdrawn, a ban after he left. If state resolution
            # ended it, the event there is somebody else's, and the state before it decides.
            if ordinal > self.end:
                return False
            if own:
                return True
        visibility, membership = branch or self._line_before(event)
        return may_see(
            visibility or "shared",
            membership,
            self._joined_from(ordinal),
            visibility_after=event.visibility if event.type == HISTORY_VISIBILITY else None,
            membership_after=event.membership if own else None,
        )

    def membership_at(self, ordinal: int) -> str:
        """Return the user's membership after the live event at an ordinal."""
        if self._is_while_joined(ordinal, 0):
            return "join"
        return value_before(self.memberships, ordinal + 1) or "leave"

    def membership_after(self, event: Placed) -> str:
        """Return the user's membership after an event: `unsigned.membership`."""
        if not event.back and event.state_nid not in self.branches:
            return self.membership_at(event.ordinal)
        if event.type == MEMBER and event.state_key == self.user_id:
            return event.membership or "leave"
        return self.membership_before(event) or "leave"

    def membership_before(self, event: Placed) -> str | None:
        """Return the user's membership in the state before an event."""
        branch = self.branches.get(event.state_nid) if event.state_nid is not None else None
        if branch is not None:
            return branch.membership
        if self.joined_throughout_from is not None and event.ordinal > self.joined_throughout_from:
            return "join"
        return value_before(self.memberships, event.ordinal)

    def may_see_place(self, ordinal: int) -> bool:
        """Return whether an ordinary event at an ordinal would be shown."""
        if self._is_while_joined(ordinal, 0):
            return True
        if self.end is not None and ordinal > self.end:
            return False
        return may_see(
            value_before(self.visibility, ordinal) or "shared",
            value_before(self.memberships, ordinal),
            self._joined_from(ordinal),
        )

    @property
    def state_is_open(self) -> bool:
        """Return whether the state at the end of the view is his to see: he is, or was until then, joined."""
        if self.end is None:
            return self.joined_throughout_from is not None
        return value_before(self.memberships, self.end) == "join"

    def _is_while_joined(self, ordinal: int, back: int) -> bool:
        """Return whether the line before a place, or the event there, has him joined for good."""
        since = self.joined_throughout_from
        return since is not None and (ordinal > since or (ordinal == since and not back))

    def _line_before(self, event: Placed) -> BranchState:
        visibility = value_before(self.visibility, event.ordinal)
        if visibility is None and event.back and self.visibility:
            # History from before everything we know of the room: the default would show more than what was set later.
            visibility = self.visibility[0][1]
        return BranchState(visibility, value_before(self.memberships, event.ordinal))

    @property
    def sees_everything(self) -> bool:
        """Return whether all of the room's line was ever open to those who are joined now, as he is."""
        return self.joined_throughout_from is not None and all(value in _OPEN for _, value in self.visibility)

    def _joined_from(self, ordinal: int) -> bool:
        """Return whether the user was joined at any time from an ordinal on."""
        if self.joined_throughout_from is not None:
            return True  # he is now; of what was before, `memberships` perhaps does not tell
        if value_before(self.memberships, ordinal) == "join":
            return True
        place = bisect_left(self.memberships, (ordinal, ""))
        return any(membership == "join" for _, membership in self.memberships[place:])
