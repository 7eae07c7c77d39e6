"""Position vectors: how far a reader (or a client's token) has come in a stream that many writers write.

A stream's positions come from one sequence, but only the order of *one* writer's positions is its commit order.
So "all up to p" is true of a writer, never of a stream, and a place in a stream is one position per writer:

    (known, base, {writer: position above base})

Writers numbered up to `known` and not named stand at `base`; those above `known` stand at their start. The dead stay
named until `base` has passed their final position. So writers come and go, no token goes bad, and nothing is skipped
or sent twice. Architecture page, section 4 "Vectors and tokens"; evidence 5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.core.errors import invalid_param

_MAX_WRITERS = 4096  # named in one token; a forged longer one is refused


@dataclass(frozen=True, slots=True)
class Vector:
    """Invariants: every position in `above` is greater than `base`; every writer in it is at most `known`."""

    known: int = 0
    base: int = 0
    above: Mapping[int, int] = field(default_factory=dict)

    def at(self, writer: int, start: int = 0) -> int:
        """Return the writer's position. start: where a writer above `known` began (from the table of writers)."""
        if writer > self.known:
            return start
        return self.above.get(writer, self.base)

    def covers(self, writer: int, position: int) -> bool:
        """Return whether the row (writer, position) is behind this vector."""
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
    """Make the vector of a reader.

    known: greatest lease number that it knows; positions: of every writer that it tracks, the dead too;
    living: those that may still write. base is the least position among the living.
    """
    alive = [positions[writer] for writer in living if writer in positions]
    base = min(alive) if alive else max(positions.values(), default=0)
    return Vector(known, base, {writer: position for writer, position in positions.items() if position > base})


def format_vector(vector: Vector) -> str:
    """Return such as "12.3400.7-3410": known, base, then each named writer with its position."""
    named = "".join(f".{writer}-{position}" for writer, position in sorted(vector.above.items()))
    return f"{vector.known}.{vector.base}{named}"


def parse_vector(text: str) -> Vector:
    """Inverse of format_vector. Raises M_INVALID_PARAM on anything that it would not have written."""
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
