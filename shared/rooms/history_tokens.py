"""PURE: tokens that name a point in one room's timeline. Endpoints take these and tokens of /sync.

"p1-417": just before the live event with ordinal 417, after the history in the gap before it.
"p2-417-5": before the history event 5 steps back from there.
"p2-417-0": before all of that gap's history, right after live event 416.
"""

import re

from shared.core.errors import invalid_param
from shared.core.history_point import HistoryPoint, gap_start

_PREFIXES = ("p1-", "p2-")
_LIVE = re.compile(r"p1-(0|[1-9][0-9]{0,17})", re.ASCII)
_HISTORY = re.compile(r"p2-([1-9][0-9]{0,17})-(0|[1-9][0-9]{0,9})", re.ASCII)


def format_point(ordinal: int, step: int = 0) -> str:
    """Return the token of a point in the timeline."""
    if step == 0:
        return f"p1-{ordinal}"
    return f"p2-{ordinal}-{0 if HistoryPoint(ordinal, step).starts_gap else -step}"


def is_history_token(token: str) -> bool:
    return token.startswith(_PREFIXES)


def parse_point(token: str) -> HistoryPoint:
    """Return the point of a token. Raises M_INVALID_PARAM for anything that `format_point` does not write."""
    if live := _LIVE.fullmatch(token):
        return HistoryPoint(int(live[1]))
    if history := _HISTORY.fullmatch(token):
        point = HistoryPoint(int(history[1]), -int(history[2]))
        if point.step == 0:
            return gap_start(point.ordinal)
        if point > gap_start(point.ordinal):
            return point
    raise invalid_param("The token is malformed")
