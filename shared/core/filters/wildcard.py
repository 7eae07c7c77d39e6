"""Event type patterns with `*`."""

from dataclasses import dataclass

from shared.core.globs import Glob, glob


@dataclass(frozen=True, slots=True)
class TypePatterns:
    """A list of event types, some with wildcards.

    exact: types without "*".
    globs: the patterns with "*".
    """

    exact: frozenset[str]
    globs: tuple[Glob, ...]

    def match(self, event_type: str) -> bool:
        """Return True if any of the patterns matches the whole type. Case counts."""
        return event_type in self.exact or any(pattern.matches(event_type) for pattern in self.globs)


def type_patterns(patterns: tuple[str, ...]) -> TypePatterns:
    """Return the patterns ready for matching. `*` matches any number of characters; no other character is special."""
    with_stars = dict.fromkeys(glob(pattern, only_stars=True) for pattern in patterns if "*" in pattern)
    return TypePatterns(frozenset(pattern for pattern in patterns if "*" not in pattern), tuple(with_stars))
