"""Event type patterns with `*`. Not regular expressions, since some patterns would take exponential time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TypePatterns:
    """A list of event types, some with wildcards.

    exact: types without "*".
    parts: each pattern with "*", split at the stars (at least two parts).
    """

    exact: frozenset[str]
    parts: tuple[tuple[str, ...], ...]

    def match(self, event_type: str) -> bool:
        """Return True if any of the patterns matches the whole type. Case counts."""
        return event_type in self.exact or any(_matches(parts, event_type) for parts in self.parts)


def type_patterns(patterns: tuple[str, ...]) -> TypePatterns:
    """Return the patterns ready for matching. `*` matches any number of characters; no other character is special."""
    return TypePatterns(
        frozenset(pattern for pattern in patterns if "*" not in pattern),
        tuple(tuple(pattern.split("*")) for pattern in patterns if "*" in pattern),
    )


def _matches(parts: tuple[str, ...], text: str) -> bool:
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:  # the leftmost match of each part leaves the most room for the next
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
