"""The auth events of a room's events as a graph of numbers. PURE.

A room of 100,000 members has as many auth events, and a peer that joins wants the whole chain of its state. So the
graph is kept in flat arrays, some 120 bytes an event, and a chain is a walk that marks what it has seen.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

_UNKNOWN = -1
_STEPS = 20_000  # events of a walk before others get a turn: some 5 ms
#: Measured with tracemalloc: a number, its places in the dictionary and in the arrays; a named auth event.
_NODE_BYTES = 120
_EDGE_BYTES = 4


class AuthGraph:
    """Event number -> numbers of its auth events, for the events that were added."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # number -> its place in the arrays
        self._numbers = array("q")
        self._starts = array("i")  # where the auth events begin in `_edges`, _UNKNOWN if the event was not added
        self._counts = array("H")
        self._edges = array("i")  # places

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        return _NODE_BYTES * len(self._numbers) + _EDGE_BYTES * len(self._edges)

    def add(self, number: int, auth_numbers: Sequence[int]) -> None:
        """Add an event. Adding it again changes nothing."""
        place = self._place(number)
        if self._starts[place] != _UNKNOWN:
            return
        self._starts[place] = len(self._edges)
        self._counts[place] = len(auth_numbers)
        self._edges.extend([self._place(auth) for auth in auth_numbers])

    def walk(self, numbers: Iterable[int]) -> Iterator["AuthWalk"]:
        """Walk the auth chains of events. Yield the walk after each piece, the last time when it is over."""
        walk = AuthWalk(self, len(self._numbers))
        pending = [self._place(number) for number in numbers]
        walk.cover(len(self._numbers))
        seen, starts, counts, edges = walk.seen, self._starts, self._counts, self._edges
        asked = set(pending)
        steps = 0
        while pending:
            place = pending.pop()
            start = starts[place]
            if start == _UNKNOWN:
                walk.unknown.append(self._numbers[place])
                continue
            for auth in edges[start : start + counts[place]]:
                if not seen[auth]:
                    seen[auth] = 1
                    if auth not in asked:
                        pending.append(auth)
            steps += 1
            if steps % _STEPS == 0:
                yield walk
        yield walk

    def numbers_at(self, seen: bytearray) -> list[int]:
        """Return the numbers of the events at these places."""
        return list(compress(self._numbers, seen))

    def _place(self, number: int) -> int:
        place = self._places.get(number)
        if place is None:
            place = self._places[number] = len(self._numbers)
            self._numbers.append(number)
            self._starts.append(_UNKNOWN)
            self._counts.append(0)
        return place


class AuthWalk:
    """A walk of auth chains. The graph must not grow before it is over.

    unknown: numbers of events that were reached and not added to the graph. Add them, and walk again.
    """

    def __init__(self, graph: AuthGraph, size: int) -> None:
        self._graph = graph
        self.seen = bytearray(size)
        self.unknown: list[int] = []

    def cover(self, size: int) -> None:
        self.seen.extend(bytes(size - len(self.seen)))

    def chain(self) -> list[int]:
        """Return the numbers of all events in the chains, each once, without those that no other one names."""
        return self._graph.numbers_at(self.seen)
