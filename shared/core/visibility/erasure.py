"""The form in which users see events whose sender had their account erased.

Spec: client-server API, POST /account/deactivate, `erase`; "Room history visibility".
"""

from enum import Enum

from shared.core.visibility.history import may_see


class ShownForm(Enum):
    """The form in which a user sees an event. REDACTED: as if redacted, but without a redaction event."""

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
    """Return the form in which a user sees an event: whole, redacted or not at all.

    sender_erased: True if the event's sender asked for erasure.
    joined_before_erasure: True if the viewer was joined at any time from the event until the erasure. Ignored unless
        the sender is erased.
    The other arguments are those of `may_see`, which decides first.

    Users who were in the room with the event before the erasure keep seeing it whole. All others get the redacted
    form: users who join later, and users who never joined and only read a world-readable room or were only invited.
    This includes state events; their effect on the room does not change.
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
