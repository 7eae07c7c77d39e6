"""The glob matcher, compared with a slow one that tries everything, and with patterns made to take long.

Spec: appendices, "Glob-style matching".
"""

import time
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.core.globs import SearchedText, glob, mark_words, word_glob

_ALPHABET = "aaabB_ -*??*ß日0\x00"
_PATTERNS = st.text(alphabet=_ALPHABET, max_size=9)
_TEXTS = st.text(alphabet=_ALPHABET.replace("*", "b").replace("?", "a"), max_size=12)
_WORD = frozenset("abB_0")
_LONG = 65_000


def _slow(pattern: str, text: str, any_character: str = "?") -> bool:
    @cache
    def matches(at: int, place: int) -> bool:
        if at == len(pattern):
            return place == len(text)
        if pattern[at] == "*":
            return matches(at + 1, place) or (place < len(text) and matches(at, place + 1))
        return place < len(text) and pattern[at] in (any_character, text[place]) and matches(at + 1, place + 1)

    return matches(0, 0)


def _slow_words(pattern: str, text: str) -> bool:
    bounds = [
        place
        for place in range(len(text) + 1)
        if place in (0, len(text)) or text[place] not in _WORD or text[place - 1] not in _WORD
    ]
    return any(_slow(pattern, text[start:end]) for start in bounds for end in bounds if start <= end)


@given(_PATTERNS, _TEXTS)
@example("a*b*", "axxbxx")
@example("?", "")
@example("**", "")
@example("a?*?a", "aba")
def test_whole_texts_match_as_by_the_definition(pattern: str, text: str) -> None:
    assert glob(pattern).matches(text) is _slow(pattern, text)
    assert glob(pattern, only_stars=True).matches(text) is _slow(pattern, text, any_character="")


@given(_PATTERNS, _TEXTS)
@example("a*a", "a")
@example(" a", "b a")
@example("*a b*", "ba bb")
@example("a?", "a_ a")
@example("\x00", "a")
def test_words_match_as_by_the_definition(pattern: str, text: str) -> None:
    assert word_glob(pattern).matches(SearchedText(text)) is _slow_words(pattern, text)


@given(st.text(alphabet="abB_ -ß日0\x00", max_size=5), _TEXTS)
def test_words_without_wildcards_are_found(words: str, text: str) -> None:
    assert SearchedText(text).has_words(mark_words(words)) is _slow_words(words, text)


def test_run_of_stars_is_one_star() -> None:
    assert glob("a" + "*" * 500 + "b") == glob("a*b")
    assert word_glob("*" * 500) == word_glob("*")


_LETTERS = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))
_HOSTILE_PATTERNS = {
    "only stars": "*" * 512,
    "a star after each letter": "a*" * 250 + "b",
    "many pieces with any": "*a?" * 150 + "b",
    "any and a letter": "?" * 511 + "b",
    "a long word": "a" * 511 + "b",
    "a long word, other end": "b" + "a" * 511,
    "a shorter word": "a" * 99 + "b",
    "many words": "a " * 200 + "b",
    "many words, other end": "b" + " a" * 200,
    "any between letters": "a?" * 250 + "b",
    "many letters and any": _LETTERS + "?b",
    "many letters and stars": "*".join(_LETTERS[:250]) + "b",
    "pieces that almost match": "*".join(["a" * 50 + "b"] * 10),
}
_HOSTILE_TEXTS = {
    "one word": "a" * _LONG,
    "a shorter word": "a" * 2_499,
    "a word that is no long text": "a" * 29_999,
    "many words": "a " * (_LONG // 2),
    "short": "a" * 255,
    "many letters": _LETTERS * (_LONG // 500),
}


@pytest.mark.parametrize("pattern", _HOSTILE_PATTERNS.values(), ids=_HOSTILE_PATTERNS)
@pytest.mark.parametrize("text", _HOSTILE_TEXTS.values(), ids=_HOSTILE_TEXTS)
def test_hostile_pattern_takes_no_longer_than_its_steps(pattern: str, text: str) -> None:
    whole, words = glob(pattern), word_glob(pattern)
    steps = whole.steps(len(text)) + words.steps(len(text))
    began = time.thread_time()
    whole.matches(text)
    words.matches(SearchedText(text))
    assert time.thread_time() - began < min(0.2, 0.02 + steps * 5e-6)


def test_steps_grow_with_the_text_and_not_with_its_square() -> None:
    for pattern in ("a*b", "*a" * 200, "?" * 500, "keyword"):
        for made in (glob(pattern), word_glob(pattern)):
            assert made.steps(64_000) <= 2 * made.steps(32_000)
