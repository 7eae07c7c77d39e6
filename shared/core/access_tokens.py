"""The shape of the access tokens that we issue: `skp_<slot, three lower-case hex digits>_<random>`.

The slot tells haproxy which process keeps the user's data, before anyone has looked the token up. It is a
hint and never trusted: whoever gets the request looks the token up and serves or forwards it. Other tokens
(an application service's, an external authentication service's, an imported one) carry no hint, and nothing
may fail for that.
"""

import re

from shared.core.slots import SLOTS

#: What haproxy tests too (deploy/haproxy/rules.py): only the beginning counts, so that both sides agree on
#: any token.
HINT_PATTERN = "skp_[0-3][0-9a-f][0-9a-f]_"
_HINT = re.compile(HINT_PATTERN.encode())


def format_access_token(slot: int, random: str) -> str:
    """Return a new token for a user of this slot.

    slot: 0 to 1023. random: at least 128 bits from a secure source, in URL-safe characters.
    Raises ValueError for a slot out of range or random characters that would need escaping in a URL.
    """
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot {slot} is not in 0 to {SLOTS - 1}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", random):
        raise ValueError("the random part must be URL-safe characters")
    return f"skp_{slot:03x}_{random}"


def slot_hint(token: str | bytes) -> int | None:
    """Return the slot that the token names, 0 to 1023, or None for a token that isn't of our form."""
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    return int(raw[4:7], 16) if _HINT.match(raw) else None
