"""PURE: the `pos` of sliding sync: the connection's owner, the number of a stored state, and a token of /sync.

"x1.<owner>.<number>.s1_e12.3400". The owner part detects the `pos` of another user, device or connection. It is not a
secret, since everything read with it belongs to the requester.
"""

import hashlib
from dataclasses import dataclass

from shared.core.identifiers import UserId

_PREFIX = "x1."
_OWNER_CHARS = 16


@dataclass(frozen=True, slots=True)
class Pos:
    """A parsed `pos`."""

    owner: str
    number: int
    #: A token of /sync.
    token: str


def owner_of(user_id: UserId, device_id: str | None, conn_id: str) -> str:
    """Return the owner part of every `pos` of the connection."""
    whole = "\x00".join((user_id, device_id or "", conn_id))
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_OWNER_CHARS]


def format_pos(pos: Pos) -> str:
    return f"{_PREFIX}{pos.owner}.{pos.number}.{pos.token}"


def parse_pos(text: str) -> Pos | None:
    """Parse the result of format_pos. Return None for any other text."""
    if not text.startswith(_PREFIX):
        return None
    parts = text.removeprefix(_PREFIX).split(".", 2)
    if len(parts) != 3:
        return None
    owner, number, token = parts
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        return None
    return Pos(owner, int(number), token)


def sync_token_in(text: str) -> str:
    """Return the token of /sync in a `pos`, and any other text unchanged. For `from` and `to` of pages."""
    pos = parse_pos(text)
    return text if pos is None else pos.token
