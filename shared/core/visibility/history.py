"""History visibility as pure functions.

Spec: client-server API, "Room history visibility", "Server behaviour".
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

#: (ordinal from which the value holds, value), ordinals ascending.
ValuesByOrdinal: TypeAlias = Sequence[tuple[int, str]]


def may_see(
    visibility: str,
    membership_at_event: str | None,
    joined_since: bool,
    *,
    visibility_after: str | None = None,
    membership_after: str | None = None,
) -> bool:
    """Return True if a user may see an event of a room.

    visibility: the `history_visibility` in force at the event. Unknown values, also "", count as "shared".
    membership_at_event: the user's membership in the state before the event, None if there was none.
    joined_since: True if the user was joined at any time from the event on (for "shared"). Where the view of a user
        who left again ends is decided by the caller.
    visibility_after: the value that an `m.room.history_visibility` event sets. Either visibility may allow the event.
    membership_after: the value that the user's own `m.room.member` event sets, likewise. So users see their own join,
        and the kick that ended their membership. They see an invite only if the visibility is "invited" or wider.

    The rules, in order: allow if world_readable; allow if joined at the event; allow if shared and joined since;
    allow if invited and invited at the event; otherwise deny.
    """
    visibilities = (visibility,) if visibility_after is None else (visibility, visibility_after)
    memberships = (membership_at_event,) if membership_after is None else (membership_at_event, membership_after)
    return any(
        _allows(each_visibility, each_membership, joined_since)
        for each_visibility in visibilities
        for each_membership in memberships
    )


def _allows(visibility: str, membership: str | None, joined_since: bool) -> bool:
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "invited":
        return membership == "invite"
    if visibility == "joined":
        return False
    return joined_since  # "shared", and every value that is not understood


def member_may_see(
    ordinal: int,
    visibility: ValuesByOrdinal,
    memberships: ValuesByOrdinal,
    *,
    is_history: bool = False,
    visibility_after: str | None = None,
    membership_after: str | None = None,
) -> bool:
    """Return True if a user who is joined now may see the event at an ordinal, or history in the gap before it.

    visibility: the room's history visibility over time.
    memberships: the user's memberships over time.
    is_history: True for an event of fetched history. If it is older than the first known visibility, that one counts.
    visibility_after, membership_after: as for `may_see`.
    """
    before = _value_before(visibility, ordinal)
    if before is None and is_history and visibility:
        before = visibility[0][1]
    return may_see(
        before or "shared",
        _value_before(memberships, ordinal),
        True,
        visibility_after=visibility_after,
        membership_after=membership_after,
    )


def _value_before(values: ValuesByOrdinal, ordinal: int) -> str | None:
    found = bisect_left(values, (ordinal, ""))
    return values[found - 1][1] if found else None
