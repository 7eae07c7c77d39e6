"""Sticky events: for some time all members get them, however old they are. Proposal: MSC4354."""

from collections.abc import Mapping
from typing import Any

MAX_STICKY_MS = 3_600_000
#: Top-level keys of a PDU. The first is written and both are read; the second is the proposal's final name.
STICKY_KEY = "msc4354_sticky"
STICKY_KEYS = (STICKY_KEY, "sticky")


def sticky_of_pdu(pdu: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the sticky object of a PDU if it is valid: its `duration_ms` is an integer from 0 to an hour."""
    for key in STICKY_KEYS:
        stated = pdu.get(key)
        if isinstance(stated, dict):
            duration = stated.get("duration_ms")
            if isinstance(duration, int) and not isinstance(duration, bool) and 0 <= duration <= MAX_STICKY_MS:
                return stated
    return None


def sticky_until(pdu: Mapping[str, Any], origin_server_ts: int, received_ms: int) -> int | None:
    """Return when the event stops being sticky, in ms, or None if it was never sticky or no longer when received.

    The time starts when the event is received at the latest, so a sender's fast clock does not prolong it.
    """
    sticky = sticky_of_pdu(pdu)
    if sticky is None:
        return None
    until_ms: int = min(origin_server_ts, received_ms) + sticky["duration_ms"]
    return until_ms if until_ms > received_ms else None
