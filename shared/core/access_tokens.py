"""The form of access tokens issued by this server: `skp_<slot, three lower-case hex digits>_<random>`.

The slot lets haproxy choose the process that owns the user's data before the token has been looked up. It is a
hint and never trusted: the process that gets the request looks the token up and serves or forwards it. Tokens from
elsewhere (an application service, an external authentication service, an import) carry no hint and work all the same.
"""

import re

from shared.core.slots import SLOTS

#: haproxy tests for the same prefix (deploy/haproxy/rules.py). Only the prefix counts, so that both agree on any token.
HINT_PATTERN = "skp_[0-3][0-9a-f][0-9a-f]_"
_HINT = re.compile(HINT_PATTERN.encode())


def format_access_token(slot: int, random: str) -> str:
    """Return a new access token for a user in this slot.

    slot: 0 to 1023.
    random: at least 128 bits from a secure source, in URL-safe characters.
    Raises ValueError for a slot out of range, or for random characters that need escaping in a URL.
    """
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot {slot} is not in 0 to {SLOTS - 1}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", random):
        raise ValueError("the random part must be URL-safe characters")
    return f"skp_{slot:03x}_{random}"


def slot_hint(token: str | bytes) -> int | None:
    """Return the slot named in the token, 0 to 1023, or None for a token of another form."""
    raw = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    return int(raw[4:7], 16) if _HINT.match(raw) else None
