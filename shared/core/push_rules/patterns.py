"""Patterns of push rules. Spec: appendices, "Glob-style matching"; client-server API, "Conditions".

`*` matches any text, `?` one character. Case is ignored: both sides are converted to lower case first.
A pattern is split at its stars, and the leftmost match of each piece is always the best one. So matching takes one
search of the text per piece. One regular expression for the whole pattern would backtrack between the stars, which a
malicious pattern makes endless.
"""

import re
from collections.abc import Callable

#: A character of a word. Any other character is a word boundary.
_WORD = "[A-Za-z0-9_]"
#: A place that no word spans.
_BOUNDARY = f"(?:(?<!{_WORD})|(?!{_WORD}))"
_WORD_KEY_RE = re.compile(r"[a-z0-9_]+|[^\sa-z0-9_]", re.ASCII)


def has_wildcards(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def match_whole(pattern: str) -> Callable[[str], bool]:
    """Return the check that a whole text, in lower case, matches the pattern."""
    folded = pattern.lower()
    if not has_wildcards(folded):
        return folded.__eq__
    return _in_pieces(folded, r"\A", r"\Z")


def match_words(pattern: str) -> Callable[[str], bool]:
    """Return the check that a part of a text, in lower case, between word boundaries matches the pattern."""
    return _in_pieces(pattern.lower(), _BOUNDARY, _BOUNDARY)


def match_literal(words: str) -> Callable[[str], bool]:
    """Return the check that a text contains these words. Stars and question marks have no special meaning."""
    expression = _BOUNDARY + re.escape(words.lower()) + _BOUNDARY
    return lambda text: re.search(expression, text) is not None


def _in_pieces(pattern: str, start: str, end: str) -> Callable[[str], bool]:
    """Return the check. start, end: regular expressions for the ends of the match; not applied next to a star."""
    pieces = pattern.split("*")
    texts = [".".join(map(re.escape, piece.split("?"))) for piece in pieces]
    texts[0] = start + texts[0] if len(pieces) == 1 or texts[0] else ""
    texts[-1] = texts[-1] + end if len(pieces) == 1 or texts[-1] else ""
    searches: list[Callable[[str, int], re.Match[str] | None]] = []

    def matches(text: str) -> bool:
        if not searches:  # compiled at the first use: most patterns of most users are never used
            searches.extend(re.compile(piece, re.DOTALL).search for piece in texts if piece)
        position = 0
        for search in searches:
            found = search(text, position)
            if found is None:
                return False
            position = found.end()
        return True

    return matches


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
