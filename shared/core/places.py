"""PURE: places in a room's history: one total order over all of its events, live ones and those fetched later.

A live event lies at (ordinal, 0). An event of history lies in the gap before the live event `anchor`, `back` steps
from it: at (anchor, -back). A page begins or ends at a place: just before the event there, if there is any. So places
never move, whatever is fetched into whichever gap afterwards.
"""

from typing import NamedTuple

#: No event has so great a `back`: before all of a gap's history, also that which is still to come.
_FARTHEST = 2**31 - 1


class Place(NamedTuple):
    """Compares as the events there lie in the room. step: 0 for a live event, -back for one of history."""

    ordinal: int
    step: int = 0

    @property
    def starts_gap(self) -> bool:
        """Whether all of what may be in the gap before the live event lies behind this place."""
        return self.step == -_FARTHEST


def gap_start(anchor: int) -> Place:
    """Return the place between the live event before `anchor` and all that may ever lie in the gap between the two."""
    return Place(anchor, -_FARTHEST)


def place_after(place: Place) -> Place:
    """Return the place just behind the event at a place, before everything that may come to follow it."""
    return gap_start(place.ordinal + 1) if place.step == 0 else Place(place.ordinal, place.step + 1)


#: Before everything.
START = gap_start(1)
