"""Points in a room's history: one total order over all of its events, live ones and those fetched later.

A live event lies at (ordinal, 0). An event of fetched history lies in the gap before the live event `anchor`, `back`
steps from it, at (anchor, -back). A page begins or ends at a point: just before the event that lies there, if any. So
points never move, whatever is fetched into a gap afterwards.
"""

from typing import NamedTuple

#: Greater than the `back` of any event, so it lies before all of a gap's history, also before what is fetched later.
_FARTHEST = 2**31 - 1


class HistoryPoint(NamedTuple):
    """A point in a room's history. Points compare in the order of the room.

    ordinal: the live event that lies there, or that ends the gap.
    step: 0 for a live event, -back for one of fetched history.
    """

    ordinal: int
    step: int = 0

    @property
    def starts_gap(self) -> bool:
        """True if everything that may ever be in the gap before the live event comes after this point."""
        return self.step == -_FARTHEST


def gap_start(anchor: int) -> HistoryPoint:
    """Return the point at the start of the gap before `anchor`: after the previous live event, before all history."""
    return HistoryPoint(anchor, -_FARTHEST)


def point_after(point: HistoryPoint) -> HistoryPoint:
    """Return the point just after the event at a point, before everything that may follow that event."""
    return gap_start(point.ordinal + 1) if point.step == 0 else HistoryPoint(point.ordinal, point.step + 1)


#: Before all events of a room.
START = gap_start(1)
