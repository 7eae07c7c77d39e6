"""Index keys of patterns and texts. Patterns are matched by `shared/core/globs.py`."""

import re

from shared.core.globs import has_wildcards

_WORD_KEY_RE = re.compile(r"[a-z0-9_]+|[^\sa-z0-9_]", re.ASCII)


def word_keys(text: str) -> frozenset[str]:
    """Return the index keys of a text: its words, and each other character except spaces.

    text: in any case. A pattern without wildcards can match only if its key (`word_key`) is among them.
    """
    return frozenset(_WORD_KEY_RE.findall(text.lower()))


def word_key(pattern: str) -> str | None:
    """Return the index key of a pattern, or None if it has wildcards or no key."""
    return None if has_wildcards(pattern) else literal_key(pattern)


def literal_key(words: str) -> str | None:
    """Return the index key of words that are no pattern, or None for spaces alone.

    It is the longest word, usually the rarest. Inside a match, words begin and end as in the words searched for.
    """
    return max(_WORD_KEY_RE.findall(words.lower()), key=len, default=None)
