"""Reading `m.room.join_rules`. Spec: client-server API, "m.room.join_rules", "Restricted rooms"."""

from enum import StrEnum

from shared.core.events.event import Event
from shared.core.identifiers import RoomId


class JoinRule(StrEnum):
    """The join rules. The room version decides which of them a room knows."""

    PUBLIC = "public"
    INVITE = "invite"
    KNOCK = "knock"
    RESTRICTED = "restricted"
    KNOCK_RESTRICTED = "knock_restricted"
    PRIVATE = "private"


def join_rule_of(join_rules: Event | None) -> str:
    """Return the join rule, known or not, or "invite" if there is no event or no string in it."""
    value = join_rules.content.get("join_rule") if join_rules is not None else None
    return value if isinstance(value, str) else JoinRule.INVITE.value


def allowed_rooms(join_rules: Event | None) -> tuple[RoomId, ...]:
    """Return the rooms whose members may join a restricted room (`allow` of type m.room_membership)."""
    allow = join_rules.content.get("allow") if join_rules is not None else None
    if not isinstance(allow, list):
        return ()
    return tuple(
        entry["room_id"]
        for entry in allow
        if isinstance(entry, dict)
        and entry.get("type") == "m.room_membership"
        and isinstance(entry.get("room_id"), str)
    )
