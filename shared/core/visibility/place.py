"""Who is joined now, and which of a room's older events he may see: by what held at a place of its timeline."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

from shared.core.visibility.history import may_see

#: (ordinal from which it holds, value), ordinals ascending.
Values: TypeAlias = Sequence[tuple[int, str]]


def member_may_see(
    place: int, visibility: Values, memberships: Values, *, is_history: bool = False,
    visibility_after: str | None = None, membership_after: str | None = None,
) -> bool:  # fmt: skip
    """Return whether somebody who is joined now may see the event at an ordinal, or history in the gap before it.

    visibility: the room's history visibility over time; memberships: his own. visibility_after, membership_after: see
    `may_see`. Of history from before all that is known of the visibility the first known one counts.
    """
    before = _before(visibility, place)
    if before is None and is_history and visibility:
        before = visibility[0][1]
    return may_see(
        before or "shared", _before(memberships, place), True,
        visibility_after=visibility_after, membership_after=membership_after,
    )  # fmt: skip


def _before(values: Values, ordinal: int) -> str | None:
    found = bisect_left(values, (ordinal, ""))
    return values[found - 1][1] if found else None
