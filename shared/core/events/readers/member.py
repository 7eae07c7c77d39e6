"""Reading `m.room.member`. Spec: client-server API, "m.room.member"."""

from enum import StrEnum

from shared.core.events.event import Event


class Membership(StrEnum):
    """The values of `membership`; a user without an event counts as having left."""

    JOIN = "join"
    INVITE = "invite"
    LEAVE = "leave"
    BAN = "ban"
    KNOCK = "knock"


def membership_of(member: Event | None) -> str | None:
    """Return the membership in the event's content, known or not; None without an event or a string there."""
    if member is None:
        return None
    return _text(member, "membership")


def authorising_user(member: Event) -> str | None:
    """Return the user who let a restricted join happen. Spec: client-server API, "Restricted rooms"."""
    return _text(member, "join_authorised_via_users_server")


def display_name_of(member: Event) -> str | None:
    """Return the name the user goes by in this room; None where there is none."""
    return _text(member, "displayname")


def avatar_url_of(member: Event) -> str | None:
    """Return what the event gives as the picture's `mxc:` address, well-formed or not; None where there is none."""
    return _text(member, "avatar_url")


def _text(member: Event, key: str) -> str | None:
    value = member.content.get(key)
    return value if isinstance(value, str) else None
