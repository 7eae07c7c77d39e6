"""History visibility as a function.

Spec: client-server API, "Room history visibility", "Server behaviour".
"""


def may_see(
    visibility: str,
    membership_at_event: str | None,
    joined_since: bool,
    *,
    visibility_after: str | None = None,
    membership_after: str | None = None,
) -> bool:
    """Return whether a user may see an event of a room.

    visibility: `history_visibility` in force at the event; anything unknown, also "", counts as "shared".
    membership_at_event: the user's membership in the state before the event; None where he had none.
    joined_since: whether he was joined at any time from the event on (for "shared"; having left again is no
        matter here: where a departed user's view of the room ends is the caller's).
    visibility_after: for an `m.room.history_visibility` event, what it sets: either of the two may let him see it.
    membership_after: for his own `m.room.member` event, what it sets: likewise. So a user sees his own join,
        and the kick that ended a membership; an invite to himself only where visibility is "invited" or wider.

    The rules: world_readable, allow; joined at the event, allow; shared and joined since, allow; invited and
    invited at the event, allow; else deny.
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
