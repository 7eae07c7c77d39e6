"""Redactions: the auth rule of room versions 1 and 2, and the check that lets a redaction take effect."""

from shared.core.event_auth.rule_numbers import violation
from shared.core.events.event import Event
from shared.core.events.readers import PowerLevels
from shared.core.identifiers import server_of
from shared.core.room_versions import RoomVersion


def check_redaction(version: RoomVersion, event: Event, sender_level: int, power_levels: PowerLevels) -> None:
    """Raise AuthRuleViolation unless the sender has the redact level, or both events are of the same server.

    Only for room versions with `redaction_rule`. Spec: rooms/v1, rule 11.
    """
    if sender_level >= power_levels.redact:
        return
    redacts = event.redacts or ""
    if ":" in redacts and server_of(redacts) == server_of(event.event_id):
        return
    raise violation(version, "redaction", "3", "the sender's power level is too low to redact others' events")


def may_apply_redaction(version: RoomVersion, redaction: Event, target: Event, power_levels: PowerLevels) -> bool:
    """Return True if an accepted redaction takes effect on its target.

    power_levels: the room's levels at the redaction.
    Clients do not get a redaction before its target is known. Spec: rooms/v3, "Handling redactions".
    """
    if redaction.redacts != target.event_id or redaction.room_id != target.room_id:
        return False
    if version.redaction_rule:
        return True  # the auth rule has checked it
    return power_levels.user_level(redaction.sender) >= power_levels.redact or server_of(redaction.sender) == server_of(
        target.sender
    )
