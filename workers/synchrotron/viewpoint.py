"""PURE: what one user may see of one room's timeline.

Spec: client-server API, "Room history visibility". The state that decides is that *before* an event; for the user's
own membership events and for changes of the visibility, what they set counts as well.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shared.core.visibility import may_see
from workers.synchrotron.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent

#: (ordinal from which it holds, value), ordinals ascending.
History: TypeAlias = Sequence[tuple[int, str]]


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
    """

    user_id: str
    visibility: History
    memberships: History
    joined_throughout_from: int | None = None
    end: int | None = None

    def may_see(self, event: TimelineEvent) -> bool:
        ordinal = event.ordinal
        if self.joined_throughout_from is not None and ordinal >= self.joined_throughout_from:
            return True
        own = event.type == MEMBER and event.state_key == self.user_id
        if self.end is not None and ordinal >= self.end:
            # How it ended he is told in any case: an invite withdrawn, a ban after he left.
            return ordinal == self.end and own
        return may_see(
            value_before(self.visibility, ordinal) or "shared",
            value_before(self.memberships, ordinal),
            self._joined_from(ordinal),
            visibility_after=event.visibility if event.type == HISTORY_VISIBILITY else None,
            membership_after=event.membership if own else None,
        )

    def membership_at(self, ordinal: int) -> str:
        """Return the user's membership after the event at an ordinal: `unsigned.membership`."""
        if self.joined_throughout_from is not None and ordinal >= self.joined_throughout_from:
            return "join"
        return value_before(self.memberships, ordinal + 1) or "leave"

    def may_see_place(self, ordinal: int) -> bool:
        """Return whether an ordinary event at an ordinal would be shown."""
        if self.joined_throughout_from is not None and ordinal >= self.joined_throughout_from:
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

    def _joined_from(self, ordinal: int) -> bool:
        """Return whether the user was joined at any time from an ordinal on."""
        if value_before(self.memberships, ordinal) == "join":
            return True
        place = bisect_left(self.memberships, (ordinal, ""))
        return any(membership == "join" for _, membership in self.memberships[place:])
