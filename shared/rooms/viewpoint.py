"""PURE: the part of a room's timeline that one user may see.

The state *before* an event decides. For the user's own membership events and for changes of the visibility, their own
values count too. Most events have the room's line before them. Events on forks and in history have other states, which
are loaded first (`branches`).
Spec: client-server API, "Room history visibility".
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from shared.core.identifiers import UserId
from shared.core.visibility import may_see
from shared.rooms.timeline_event import HISTORY_VISIBILITY, MEMBER

#: (ordinal from which the value holds, value), ordinals ascending.
History: TypeAlias = Sequence[tuple[int, str]]

#: The visibilities that let new members see earlier events.
_OPEN = frozenset({"shared", "world_readable"})


class Placed(Protocol):
    """The parts of an event that decide its visibility. A `TimelineEvent` has them, as have rows without content."""

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
    """The deciding values of a state other than the room's line. None: the state has no such event."""

    visibility: str | None
    membership: str | None


def value_before(history: History, ordinal: int) -> str | None:
    """Return the value that holds just before an ordinal."""
    index = bisect_left(history, (ordinal, ""))
    return history[index - 1][1] if index else None


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """One user's view of one room."""

    user_id: UserId
    #: The room's history visibility over time; "shared" before its first entry.
    visibility: History
    #: The user's membership over time. With `joined_throughout_from`, the last entry is enough for later events.
    memberships: History
    #: The user has been joined without a break since the event at this ordinal. None: they are not joined.
    joined_throughout_from: int | None = None
    #: The ordinal at which the user left: they see nothing above it. None: no end.
    end: int | None = None
    #: The deciding values by state snapshot, added by the readers of events. Without its snapshot here, an event is
    #: judged by the room's line.
    branches: dict[int, BranchState] = field(default_factory=dict)

    def may_see(self, event: Placed) -> bool:
        """Return True if the user may see the event."""
        branch = self.branches.get(event.state_nid) if event.state_nid is not None else None
        ordinal = event.ordinal
        # Not *at* that ordinal: if state resolution made the user joined, the event there is another user's.
        if branch is None and self.joined_throughout_from is not None and ordinal > self.joined_throughout_from:
            return True
        own = event.type == MEMBER and event.state_key == self.user_id
        if self.end is not None and (ordinal > self.end or (ordinal == self.end and not event.back)):
            # The user always sees the event that ended it, such as a withdrawn invite or a ban. If state resolution
            # ended it, the event there is another user's, and the state before it decides.
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
        """Return the user's membership after an event, for `unsigned.membership`."""
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

    def may_see_at(self, ordinal: int) -> bool:
        """Return True if the user may see an ordinary event at an ordinal."""
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
        """Return True if the user may see the state at the end of the view: they are joined, or were until then."""
        if self.end is None:
            return self.joined_throughout_from is not None
        return value_before(self.memberships, self.end) == "join"

    def _is_while_joined(self, ordinal: int, back: int) -> bool:
        """Return True if the user has been joined without a break since before this point or by the event there."""
        since = self.joined_throughout_from
        return since is not None and (ordinal > since or (ordinal == since and not back))

    def _line_before(self, event: Placed) -> BranchState:
        visibility = value_before(self.visibility, event.ordinal)
        if visibility is None and event.back and self.visibility:
            # History from before the first known state: the default would show more than the later setting.
            visibility = self.visibility[0][1]
        return BranchState(visibility, value_before(self.memberships, event.ordinal))

    @property
    def sees_everything(self) -> bool:
        """Return True if the user is joined and the room's line was always visible to new members."""
        return self.joined_throughout_from is not None and all(value in _OPEN for _, value in self.visibility)

    def _joined_from(self, ordinal: int) -> bool:
        """Return True if the user was joined at any time from an ordinal on."""
        if self.joined_throughout_from is not None:
            return True  # joined now; `memberships` may be incomplete for earlier times
        if value_before(self.memberships, ordinal) == "join":
            return True
        index = bisect_left(self.memberships, (ordinal, ""))
        return any(membership == "join" for _, membership in self.memberships[index:])
