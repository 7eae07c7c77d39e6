"""Text as it is indexed for search: the searchable text of an event, and its words in scripts without spaces.

Spec: client-server API, "Server Side Search".
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.core.search.folding import fold

KEYS = ("content.body", "content.name", "content.topic")
MAX_CHARS = 20_000  # per event; the text after that is not indexed
_TYPES = {"m.room.message": 0, "m.room.name": 1, "m.room.topic": 2}
_FIELDS = ("body", "name", "topic")
#: Thai, Lao, Burmese, Khmer; kana, CJK ideographs with their extensions.
_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_CONTROLS = re.compile("[\x00-\x1f\ud800-\udfff]")


class Searchable(NamedTuple):
    """The searchable text of an event. key: its index in KEYS."""

    key: int
    text: str


def searchable_text(event_type: str, state_key: str | None, content: Mapping[str, Any]) -> Searchable | None:
    """Return the searchable text of an event, or None if it has none. Encrypted events have none."""
    key = _TYPES.get(event_type)
    if key is None or (key == 0) != (state_key is None):
        return None
    texts = [content.get(_FIELDS[key])]
    if key == 2:
        texts.append(_plain_topic(content.get("m.topic")))
    found = "\n".join(dict.fromkeys(text for text in texts if isinstance(text, str) and text))
    return Searchable(key, found[:MAX_CHARS]) if found else None


def split_words(text: str, *, is_query: bool = False) -> str:
    """Return the folded text, with scripts that have no spaces cut into pairs of characters.

    PostgreSQL finds the words of other scripts. Its own lower-casing depends on the installation.
    The index also holds single characters, so that one can be found.
    is_query: True for a search term. Only a run of one character is a single character there.
    """
    return _split(fold(_CONTROLS.sub(" ", text)), is_query=is_query)


class IndexedText(NamedTuple):
    """A text as it enters the index.

    words: as `split_words` returns it.
    spaced: the same without the scripts that have no spaces. Only these words have stems, so that no language parses
        thousands of pairs again.
    """

    words: str
    spaced: str


def indexed_text(text: str) -> IndexedText:
    """Return a text as it enters the index."""
    folded = fold(_CONTROLS.sub(" ", text))
    return IndexedText(_split(folded, is_query=False), _NO_SPACES.sub(" ", folded))


def _split(folded: str, *, is_query: bool) -> str:
    return _NO_SPACES.sub(lambda run: f" {' '.join(_pieces(run[0], is_query))} ", folded)


def _pieces(run: str, is_query: bool) -> list[str]:
    pairs = [run[n : n + 2] for n in range(len(run) - 1)]
    return pairs if is_query and pairs else [*run, *pairs]


def _plain_topic(block: Any) -> str | None:
    """Return the first text/plain representation in `m.topic`. Spec: m.room.topic."""
    texts = block.get("m.text") if isinstance(block, dict) else None
    for text in texts if isinstance(texts, list) else ():
        if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
            body = text.get("body")
            return body if isinstance(body, str) else None
    return None
