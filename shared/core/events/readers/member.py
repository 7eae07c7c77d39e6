"""Reading `m.room.member`. Spec: client-server API, "m.room.member"."""

from enum import StrEnum

from shared.core.events.event import Event
from shared.core.identifiers import UserId


class Membership(StrEnum):
    """The values of `membership`. A user without an event counts as having left."""

    JOIN = "join"
    INVITE = "invite"
    LEAVE = "leave"
    BAN = "ban"
    KNOCK = "knock"


def membership_of(member: Event | None) -> str | None:
    """Return the membership in the event's content, known or not, or None without an event or a string in it."""
    if member is None:
        return None
    return _text(member, "membership")


def authorising_user(member: Event) -> UserId | None:
    """Return the user who authorised a restricted join. Spec: client-server API, "Restricted rooms"."""
    authoriser = _text(member, "join_authorised_via_users_server")
    return None if authoriser is None else UserId(authoriser)


def display_name_of(member: Event) -> str | None:
    """Return the user's name in this room, or None."""
    return _text(member, "displayname")


def avatar_url_of(member: Event) -> str | None:
    """Return the `mxc:` address of the user's picture, well-formed or not, or None."""
    return _text(member, "avatar_url")


def _text(member: Event, key: str) -> str | None:
    value = member.content.get(key)
    return value if isinstance(value, str) else None
