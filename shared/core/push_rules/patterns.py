"""Patterns of push rules. Spec: appendices, "Glob-style matching"; client-server API, "Conditions".

`*` stands for any text, `?` for one character. Case is ignored: both sides are put into lower case before.
A pattern is a row of pieces between its stars, and the first place where a piece fits is always the best one, so
that a match takes one look over the text for each piece. One regular expression for all would go back and forth
between the stars, which a malicious pattern makes endless.
"""

import re
from collections.abc import Callable

#: What a word consists of; everything else is a word boundary.
_WORD = "[A-Za-z0-9_]"
#: No word goes on across this place.
_BOUNDARY = f"(?:(?<!{_WORD})|(?!{_WORD}))"
_WORD_KEY_RE = re.compile(r"[a-z0-9_]+|[^\sa-z0-9_]", re.ASCII)


def has_wildcards(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def match_whole(pattern: str) -> Callable[[str], bool]:
    """Return the check whether a text, in lower case, is what the pattern says."""
    folded = pattern.lower()
    if not has_wildcards(folded):
        return folded.__eq__
    return _in_pieces(folded, r"\A", r"\Z")


def match_words(pattern: str) -> Callable[[str], bool]:
    """Return the check whether a part of a text, in lower case, that starts and ends at word boundaries matches."""
    return _in_pieces(pattern.lower(), _BOUNDARY, _BOUNDARY)


def match_literal(words: str) -> Callable[[str], bool]:
    """Return the same check for what is no pattern: stars and question marks stand for themselves."""
    expression = _BOUNDARY + re.escape(words.lower()) + _BOUNDARY
    return lambda text: re.search(expression, text) is not None


def _in_pieces(pattern: str, start: str, end: str) -> Callable[[str], bool]:
    """start, end: what must hold there, as regular expressions; where a star stands, nothing must."""
    pieces = pattern.split("*")
    texts = [".".join(map(re.escape, piece.split("?"))) for piece in pieces]
    texts[0] = start + texts[0] if len(pieces) == 1 or texts[0] else ""
    texts[-1] = texts[-1] + end if len(pieces) == 1 or texts[-1] else ""
    searches: list[Callable[[str, int], re.Match[str] | None]] = []

    def matches(text: str) -> bool:
        if not searches:  # compiled when first needed: most patterns of most users never are
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
    """Return the keys under which words of the text are found: its words, and each other character but spaces.

    text: as it is, any case. A pattern without wildcards (`word_key`) can only match if its key is among them.
    """
    return frozenset(_WORD_KEY_RE.findall(text.lower()))


def word_key(pattern: str) -> str | None:
    """Return the one key by which an index finds a plain pattern; None: it has wildcards, or no key."""
    return None if has_wildcards(pattern) else literal_key(pattern)


def literal_key(words: str) -> str | None:
    """Return the key for what is no pattern; None for spaces alone.

    The longest word: the rarest, as a rule. Inside a match words begin and end as they do in what is looked for.
    """
    return max(_WORD_KEY_RE.findall(words.lower()), key=len, default=None)
