r"""Glob patterns, matched without backtracking. Spec: appendices, "Glob-style matching".

    glob("m.room.*").matches(text)                   # the whole text
    word_glob("ex*ple").matches(SearchedText(body))  # a part of the text between word boundaries

`*` matches any text, `?` one character. Case counts: callers that ignore it convert both sides to lower case.

A pattern is split at its stars. The leftmost match of each piece leaves the most room for the next ones, so a text is
searched once per piece, from where the previous piece ended. A run of stars is one star.

- Pieces without `?` are searched with `str.find`.
- Pieces with `?` are searched at all places at once: the places of each character in the text are the bits of an
  integer, which is shifted and combined once per character of the piece.

`steps` bounds the work of a match. One step takes about a microsecond at worst.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_ANY: Final = "?"
#: A word: a run of these characters. Any other character is a word boundary.
_WORD_RE: Final = re.compile(r"([A-Za-z0-9_]+)", re.ASCII)
#: A word boundary in a text whose words are marked.
_MARK: Final = "\x00"
#: In place of _MARK in texts and patterns. No JSON text has it.
_NUL: Final = "\ud800"
#: The units of `_Cost.per_32k`: what 32,768 characters of text take, in steps.
_SCAN: Final = 64  # for each search: twice as many characters, with the marks
_FIND: Final = 8  # for each character of the longest piece: 4096 comparisons a step
_FIND_AT_MOST: Final = 128  # characters: with longer pieces `str.find` changes its algorithm
_SHIFT: Final = 1  # for each character of the pattern
_PLACES: Final = 64  # for each different character of the pattern
_SPLIT: Final = 2048  # for all of them together


class SearchedText:
    """A text for any number of patterns. What several of them need is computed once."""

    __slots__ = ("_boundaries", "_marked", "_places", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._marked: str | None = None
        self._places: dict[str, int] = {}
        self._boundaries: int | None = None

    def marked(self) -> str:
        """Return the text with a mark before and after each word."""
        if self._marked is None:
            self._marked = mark_words(self.text)
        return self._marked

    def has_words(self, marked: str) -> bool:
        """Return True if words, as returned by `mark_words`, are a part of the text between word boundaries."""
        return marked in self.marked()

    def places_of(self, piece: str, *, start: bool = False, end: bool = False) -> int:
        """Return the places where a piece matches, as bits.

        start, end: True if the match must begin, or end, at a word boundary.
        """
        room = len(self.text) - len(piece)
        if room < 0:
            return 0
        found = (2 << room) - 1
        if start:
            found &= self._boundary_places()
        if end:
            found &= self._boundary_places() >> len(piece)
        for offset, character in enumerate(piece):
            if not found:
                break
            if character != _ANY:
                found &= self._places_of_character(character) >> offset
        return found

    def _places_of_character(self, character: str) -> int:
        places = self._places.get(character)
        if places is None:
            between = self.text[::-1].split(character)  # the highest bit is the last place
            places = int("1".join(["0" * len(part) for part in between]), 2) if len(between) > 1 else 0
            self._places[character] = places
        return places

    def _boundary_places(self) -> int:
        if self._boundaries is None:
            digits = ("0", "1")
            parts = _WORD_RE.split(self.text[::-1])
            words = int("".join([digits[number % 2] * len(part) for number, part in enumerate(parts)]) or "0", 2)
            inside = words & (words << 1)
            self._boundaries = ((2 << len(self.text)) - 1) ^ inside
        return self._boundaries


def mark_words(text: str) -> str:
    """Return a text with a mark before and after each word."""
    if _MARK in text:
        text = text.replace(_MARK, _NUL)
    return _MARK.join(_WORD_RE.split(text))


@dataclass(frozen=True, slots=True)
class _Cost:
    """The steps of a match: fixed ones, and those that the length of the text adds."""

    fixed: int
    per_32k: int

    def steps(self, length: int) -> int:
        return self.fixed + (length * self.per_32k >> 15)


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern for whole texts.

    pieces: the texts between its stars. Only the first and the last may be empty.
    least_length: the length of the shortest text that matches.
    has_any: True if `?` in the pieces matches any character.
    """

    pieces: tuple[str, ...]
    least_length: int
    has_any: bool
    cost: _Cost

    def matches(self, text: str) -> bool:
        """Return True if the whole text matches."""
        if len(text) < self.least_length:
            return False
        if self.has_any:
            return self._matches_with_any(SearchedText(text))
        first, last = self.pieces[0], self.pieces[-1]
        if len(self.pieces) == 1:
            return text == first
        if not text.startswith(first) or not text.endswith(last):
            return False
        place, end = len(first), len(text) - len(last)
        for piece in self.pieces[1:-1]:
            place = text.find(piece, place, end)
            if place < 0:
                return False
            place += len(piece)
        return True

    def _matches_with_any(self, text: SearchedText) -> bool:
        first, last = self.pieces[0], self.pieces[-1]
        end = len(text.text) - len(last)
        if len(self.pieces) == 1:
            return end == 0 and text.places_of(first) == 1
        if not text.places_of(first) & 1 or not text.places_of(last) >> end & 1:
            return False
        place = len(first)
        for piece in self.pieces[1:-1]:
            found = text.places_of(piece) >> place
            if not found:
                return False
            place += _lowest(found) + len(piece)
        return place <= end

    def steps(self, length: int) -> int:
        """Return the most steps that a match takes with a text of this length."""
        return 1 if length < self.least_length else self.cost.steps(length)


@dataclass(frozen=True, slots=True)
class WordGlob:
    """A pattern for parts of texts between word boundaries.

    pieces: the texts between its stars, without empty ones. Their words are marked if `is_marked`.
    is_marked: True if the pieces are searched in the marked text. Parts of words need no marks.
    has_any: True if `?` in the pieces matches any character.
    opens, closes: True if the first piece must begin, or the last one end, at a word boundary.
    """

    pieces: tuple[str, ...]
    is_marked: bool
    has_any: bool
    opens: bool
    closes: bool
    cost: _Cost

    def matches(self, text: SearchedText) -> bool:
        """Return True if a part of the text matches."""
        if self.has_any:
            return self._matches_with_any(text)
        searched, place = text.marked() if self.is_marked else text.text, 0
        for piece in self.pieces:
            place = searched.find(piece, place)
            if place < 0:
                return False
            place += len(piece)
        return True

    def _matches_with_any(self, text: SearchedText) -> bool:
        place, last = 0, len(self.pieces) - 1
        for number, piece in enumerate(self.pieces):
            opens, closes = self.opens and number == 0, self.closes and number == last
            found = text.places_of(piece, start=opens, end=closes) >> place
            if not found:
                return False
            place += _lowest(found) + len(piece)
        return True

    def steps(self, length: int) -> int:
        """Return the most steps that a match takes with a text of this length."""
        return self.cost.steps(length)


def has_wildcards(pattern: str) -> bool:
    return "*" in pattern or _ANY in pattern


def glob(pattern: str, *, only_stars: bool = False) -> Glob:
    """Return a pattern for whole texts. only_stars: True if `?` is a character like any other."""
    pieces = pattern.split("*")
    if len(pieces) > 1:
        pieces = [pieces[0], *filter(None, pieces[1:-1]), pieces[-1]]
    has_any = not only_stars and _ANY in pattern
    return Glob(tuple(pieces), sum(map(len, pieces)), has_any, _cost(pieces, has_any))


def word_glob(pattern: str) -> WordGlob:
    """Return a pattern for parts of texts between word boundaries."""
    pieces = pattern.split("*")
    opens, closes = pieces[0] != "" or len(pieces) == 1, pieces[-1] != "" or len(pieces) == 1
    kept = [piece for piece in pieces if piece]
    has_any = _ANY in pattern
    if not has_any:
        last = len(kept) - 1
        kept = [
            _marked_piece(piece, opens=opens and number == 0, closes=closes and number == last)
            for number, piece in enumerate(kept)
        ]
    is_marked = any(_MARK in piece or _NUL in piece for piece in kept)
    return WordGlob(tuple(kept), is_marked, has_any, opens, closes, _cost(kept, has_any))


def search_steps(words: str, length: int) -> int:
    """Return the most steps that a search for words takes in a text of this length."""
    return _Cost(1, _find_rate(len(words))).steps(length)


def _find_rate(longest: int) -> int:
    return _SCAN + _FIND * min(longest, _FIND_AT_MOST) if longest else 0


def _marked_piece(piece: str, *, opens: bool, closes: bool) -> str:
    """Return a piece as it is in a marked text. At a star, a word of the piece may be a part of the text's word."""
    marked = mark_words(piece)
    if not opens:
        marked = marked.removeprefix(_MARK)
    return marked if closes else marked.removesuffix(_MARK)


def _cost(pieces: Sequence[str], has_any: bool) -> _Cost:
    characters = sum(map(len, pieces))
    if not has_any:
        return _Cost(1 + len(pieces) // 8, _find_rate(max(map(len, pieces), default=0)))
    different = len({character for piece in pieces for character in piece})
    return _Cost(1 + characters // 4, _SHIFT * characters + _PLACES * different + _SPLIT)


def _lowest(bits: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
