"""The members whose names stand for a room that has none. Spec: client-server API, GET /sync, RoomSummary."""

from collections.abc import Iterable
from dataclasses import dataclass

#: The spec's number, for rooms with so many.
MAX_HEROES = 5
#: Who may be a hero, those who come first; of the second group only where the first is empty.
PRESENT, ABSENT = ("join", "invite"), ("leave", "ban")


@dataclass(frozen=True, slots=True)
class Member:
    """One user's membership. order: a number that grows in the order in which the memberships came to be."""

    user_id: str
    membership: str
    order: int


def heroes_for(viewer: str, members: Iterable[Member]) -> list[str]:
    """Return the user ids of `m.heroes` for this viewer: the first five who are joined or invited, never himself.

    Where there is no such other user: the first five who left or were banned. Knocking users are neither.
    members: in any order, once each; the first six of either group will do in place of all.
    """
    others = sorted((member for member in members if member.user_id != viewer), key=lambda member: member.order)
    present = [member.user_id for member in others if member.membership in PRESENT]
    absent = [member.user_id for member in others if member.membership in ABSENT]
    return (present or absent)[:MAX_HEROES]
