"""The corpus of the conversation tests has text of many kinds."""

import itertools
import unicodedata

from tests.corpus import messages, sentences


def test_corpus_has_many_languages_and_scripts() -> None:
    corpus = sentences()
    assert len({sentence.language for sentence in corpus}) >= 30
    letters = {character for sentence in corpus for character in sentence.text if character.isalpha()}
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "TAMIL", "CJK", "HIRAGANA", "HANGUL"}


def test_same_seed_gives_same_messages() -> None:
    first = list(itertools.islice(messages(1), 200))
    assert first == list(itertools.islice(messages(1), 200))
    assert first != list(itertools.islice(messages(2), 200))
    assert any(character >= "\U0001f468" for text in first for character in text)
