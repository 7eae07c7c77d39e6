"""PURE: sticky events: for some time every member gets them, however far back they are. Proposal: MSC4354."""

from collections.abc import Mapping
from typing import Any

MAX_STICKY_MS = 3_600_000
#: Top-level keys of a PDU: what is written, and what is read, the proposal's own name last.
STICKY_KEY = "msc4354_sticky"
STICKY_KEYS = (STICKY_KEY, "sticky")


def sticky_of_pdu(pdu: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the sticky object of a PDU that has a valid one: its `duration_ms` is an integer from 0 to an hour."""
    for key in STICKY_KEYS:
        stated = pdu.get(key)
        if isinstance(stated, dict):
            duration = stated.get("duration_ms")
            if isinstance(duration, int) and not isinstance(duration, bool) and 0 <= duration <= MAX_STICKY_MS:
                return stated
    return None


def sticky_until(pdu: Mapping[str, Any], origin_server_ts: int, received_ms: int) -> int | None:
    """Return when the event ceases to be sticky, in ms; None: it never was, or was not any more when it came.

    A sender's clock that is ahead gains it nothing: it begins when it was received at the latest.
    """
    sticky = sticky_of_pdu(pdu)
    if sticky is None:
        return None
    until_ms: int = min(origin_server_ts, received_ms) + sticky["duration_ms"]
    return until_ms if until_ms > received_ms else None
