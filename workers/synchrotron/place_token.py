"""PURE: tokens that name a place in one room's history, such as "p1-417": just before the event with ordinal 417.

/messages takes them and the tokens of /sync. A letter of its own for the kind of place leaves room for places among
events that were fetched from other servers later (they have a depth and no ordinal).
"""

from shared.core.errors import invalid_param

_PREFIX = "p1-"


def format_place(before_ordinal: int) -> str:
    """Return the token of the place just before an ordinal."""
    return f"{_PREFIX}{before_ordinal}"


def is_place(token: str) -> bool:
    return token.startswith(_PREFIX)


def parse_place(token: str) -> int:
    """Return the ordinal just before which the place is. Raises M_INVALID_PARAM."""
    digits = token[len(_PREFIX) :]
    if not (is_place(token) and digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise invalid_param("The token is malformed")
    return int(digits)
