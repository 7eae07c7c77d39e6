"""Drafts of member events."""

from collections.abc import Mapping
from typing import Any

from shared.core.canonical_json import encode_canonical
from shared.core.identifiers import UserId
from workers.event_persister.room.drafts import Draft

MEMBER = "m.room.member"


def member_draft(
    sender: UserId, target: UserId, membership: str, content: Mapping[str, Any], *, device: str | None = None
) -> Draft:
    """Return the draft of a member event.

    content: further keys. Those that are None are left out.
    device: NO_DEVICE if the server sends the event for the sender.
    """
    filled = {key: value for key, value in content.items() if value is not None}
    whole = {**filled, "membership": membership}
    return Draft(sender=sender, type=MEMBER, state_key=target, content=whole, device=device)


def same_json(one: Any, other: Any) -> bool:
    """Return True if two values are equal as JSON. In Python, True equals 1."""
    return encode_canonical(one) == encode_canonical(other)
