"""What is left to see of events whose sender had his account erased.

Spec: client-server API, POST /account/deactivate, `erase`; "Room history visibility".
"""

from enum import Enum

from shared.core.visibility.history import may_see


class ShownForm(Enum):
    """How a user gets to see an event. REDACTED: as if it had been redacted, but without a redaction event."""

    WHOLE = "whole"
    REDACTED = "redacted"
    HIDDEN = "hidden"


def shown_form(
    visibility: str,
    membership_at_event: str | None,
    joined_since: bool,
    *,
    sender_erased: bool,
    joined_before_erasure: bool = False,
    visibility_after: str | None = None,
    membership_after: str | None = None,
) -> ShownForm:
    """Return whether a user sees an event whole, redacted or not at all.

    sender_erased: whether the event's sender asked for erasure. joined_before_erasure: whether the viewer was joined
        at any time from the event on until then; of no matter unless the sender is erased.
    The other arguments: see `may_see`, which decides first.

    Who was in the room with the event before the erasure keeps seeing it whole. Everybody else gets the redacted
    form: who joins afterwards, and who only reads a world-readable room, or was only invited to it, without
    ever having joined. State events are no exception; what the room's rules make of them does not change.
    """
    if not may_see(
        visibility,
        membership_at_event,
        joined_since,
        visibility_after=visibility_after,
        membership_after=membership_after,
    ):
        return ShownForm.HIDDEN
    was_there = "join" in (membership_at_event, membership_after) or joined_before_erasure
    return ShownForm.REDACTED if sender_erased and not was_there else ShownForm.WHOLE
