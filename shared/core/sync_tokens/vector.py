"""Position vectors: the position of a reader, or of a client's token, in a stream with many writers.

A stream's positions come from one sequence, but they are in commit order only per writer. So "everything up to p" can
be true of a writer, but not of a stream, and a place in a stream is one position per writer:

    (known, base, {writer: position above base})

Writers numbered up to `known` that are not named are at `base`. Writers above `known` are at their start. Dead writers
stay named until `base` has passed their final position. So writers come and go, no token becomes invalid, and nothing
is skipped or sent twice. Architecture page, section 4 "Vectors and tokens"; evidence 5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.core.errors import invalid_param

_MAX_WRITERS = 4096  # named in one token; a longer token is forged, and refused


@dataclass(frozen=True, slots=True)
class Vector:
    """A position per writer.

    Invariants: every position in `above` is greater than `base`; every writer in it is at most `known`.
    """

    known: int = 0
    base: int = 0
    above: Mapping[int, int] = field(default_factory=dict)

    def at(self, writer: int, start: int = 0) -> int:
        """Return the writer's position. start: the start of a writer above `known` (from the table of writers)."""
        if writer > self.known:
            return start
        return self.above.get(writer, self.base)

    def covers(self, writer: int, position: int) -> bool:
        """Return True if the row (writer, position) is at or before this vector."""
        return writer <= self.known and position <= self.above.get(writer, self.base)

    def capped(self, position: int) -> "Vector":
        """Return the vector with each writer at most at `position`: the token of an answer that was cut there."""
        base = min(self.base, position)
        return Vector(self.known, base, {w: min(p, position) for w, p in self.above.items() if min(p, position) > base})

    @property
    def greatest(self) -> int:
        """The greatest position of any writer."""
        return max(self.above.values(), default=self.base)


def vector_of(known: int, positions: Mapping[int, int], living: Iterable[int]) -> Vector:
    """Return the vector of a reader. Its base is the least position of the living writers.

    known: the greatest lease number that the reader knows.
    positions: of every writer that it tracks, dead ones included.
    living: the writers that may still write.
    """
    alive = [positions[writer] for writer in living if writer in positions]
    base = min(alive) if alive else max(positions.values(), default=0)
    return Vector(known, base, {writer: position for writer, position in positions.items() if position > base})


def format_vector(vector: Vector) -> str:
    """Return the vector as text, such as "12.3400.7-3410": known, base, then each named writer with its position."""
    named = "".join(f".{writer}-{position}" for writer, position in sorted(vector.above.items()))
    return f"{vector.known}.{vector.base}{named}"


def parse_vector(text: str) -> Vector:
    """Return the vector in a text of `format_vector`. Raises MatrixError M_INVALID_PARAM for any other text."""
    known, _, rest = text.partition(".")
    base, *named = rest.split(".")
    if len(named) > _MAX_WRITERS:
        raise invalid_param("The token is malformed")
    above = {}
    for entry in named:
        writer, _, position = entry.partition("-")
        above[_number(writer)] = _number(position)
    vector = Vector(_number(known), _number(base), above)
    if any(w > vector.known or p <= vector.base for w, p in above.items()):
        raise invalid_param("The token is malformed")
    return vector


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise invalid_param("The token is malformed")
    return int(text)
