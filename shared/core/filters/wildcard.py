"""Event type patterns with `*`.

The number of stars in a list is limited, so that judging one type takes a tenth of a millisecond at most. The results
for a few types are kept: most events have one of a few types.
"""

import re
from dataclasses import dataclass, field

from shared.core.errors import bad_json
from shared.core.globs import Glob, glob

#: The most stars in all patterns of a list, several in a row counted as one.
MAX_STARS = 200
_MAX_KNOWN = 50
_STARS = re.compile(r"\*+")


@dataclass(frozen=True, slots=True)
class TypePatterns:
    """A list of event types, some with wildcards.

    exact: types without "*".
    globs: the patterns with "*".
    """

    exact: frozenset[str]
    globs: tuple[Glob, ...]
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def match(self, event_type: str) -> bool:
        """Return True if any of the patterns matches the whole type. Case counts."""
        if event_type in self.exact:
            return True
        if not self.globs:
            return False
        found = self._known.get(event_type)
        if found is None:
            found = any(pattern.matches(event_type) for pattern in self.globs)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[event_type] = found
        return found


def type_patterns(patterns: tuple[str, ...]) -> TypePatterns:
    """Return the patterns ready for matching. `*` matches any number of characters; no other character is special.

    Raises M_BAD_JSON for more than MAX_STARS stars.
    """
    with_stars = dict.fromkeys(pattern for pattern in patterns if "*" in pattern)
    if sum(len(_STARS.findall(pattern)) for pattern in with_stars) > MAX_STARS:
        raise bad_json(f"A list of event types may have at most {MAX_STARS} wildcards")
    globs = dict.fromkeys(glob(pattern, only_stars=True) for pattern in with_stars)
    return TypePatterns(frozenset(pattern for pattern in patterns if "*" not in pattern), tuple(globs))
