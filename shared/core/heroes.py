"""Heroes: the members whose names represent a room without a name. Spec: client-server API, GET /sync, RoomSummary."""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.core.identifiers import UserId

#: The spec's limit.
MAX_HEROES = 5
#: The memberships of heroes. Absent members are heroes only if no other member is present.
PRESENT, ABSENT = ("join", "invite"), ("leave", "ban")


@dataclass(frozen=True, slots=True)
class Member:
    """One user's membership. order: a number that grows in the order in which the memberships began."""

    user_id: UserId
    membership: str
    order: int


def heroes_for(viewer: UserId, members: Iterable[Member]) -> list[UserId]:
    """Return the user ids of `m.heroes` for this viewer: the first five other users who are joined or invited.

    If there are none, the first five users who left or were banned. Knocking users are never heroes.
    members: in any order, once each. The first six of either group are enough.
    """
    others = sorted((member for member in members if member.user_id != viewer), key=lambda member: member.order)
    present = [member.user_id for member in others if member.membership in PRESENT]
    absent = [member.user_id for member in others if member.membership in ABSENT]
    return (present or absent)[:MAX_HEROES]
