"""What the conversation tests send really is text of many kinds."""

import itertools
import unicodedata

from tests.corpus import messages, sentences


def test_many_languages_and_scripts() -> None:
    corpus = sentences()
    assert len({sentence.language for sentence in corpus}) >= 30
    letters = {character for sentence in corpus for character in sentence.text if character.isalpha()}
    scripts = {unicodedata.name(letter).split()[0] for letter in letters}
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "TAMIL", "CJK", "HIRAGANA", "HANGUL"}


def test_messages_repeat_with_their_seed_only() -> None:
    first = list(itertools.islice(messages(1), 200))
    assert first == list(itertools.islice(messages(1), 200))
    assert first != list(itertools.islice(messages(2), 200))
    assert any(character >= "\U0001f468" for text in first for character in text)
