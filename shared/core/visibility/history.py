"""History visibility as pure functions.

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
    """Return True if a user may see an event of a room.

    visibility: the `history_visibility` in force at the event. Unknown values, also "", count as "shared".
    membership_at_event: the user's membership in the state before the event, None if there was none.
    joined_since: True if the user was joined at any time from the event on (for "shared"). The caller decides where
        the view of a user who left again ends.
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
    return joined_since  # "shared" and unknown values
