"""Text as it is searched: what of an event is text, and how scripts without spaces become words.

Spec: client-server API, "Server Side Search".
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

KEYS = ("content.body", "content.name", "content.topic")
MAX_CHARS = 20_000  # of one event: what follows is not searched
_TYPES = {"m.room.message": 0, "m.room.name": 1, "m.room.topic": 2}
_FIELDS = ("body", "name", "topic")
#: Thai, Lao, Burmese, Khmer; kana, CJK ideographs with their extensions.
_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_CONTROLS = re.compile("[\x00-\x1f\ud800-\udfff]")


class Searchable(NamedTuple):
    """key: index in KEYS."""

    key: int
    text: str


def searchable_text(event_type: str, state_key: str | None, content: Mapping[str, Any]) -> Searchable | None:
    """Return what of an event can be searched; None for nothing, as of every encrypted one."""
    key = _TYPES.get(event_type)
    if key is None or (key == 0) != (state_key is None):
        return None
    texts = [content.get(_FIELDS[key])]
    if key == 2:
        texts.append(_plain_topic(content.get("m.topic")))
    found = "\n".join(dict.fromkeys(text for text in texts if isinstance(text, str) and text))
    return Searchable(key, found[:MAX_CHARS]) if found else None


def split_words(text: str, *, searched_for: bool = False) -> str:
    """Return the text in lower case, scripts that have no spaces cut into pairs of characters.

    PostgreSQL finds all other words; what it takes for lower case depends on where it was installed.

    What is stored has the single characters too, since somebody may look for one; searched_for: a longer run is its
    pairs alone.
    """
    return _NO_SPACES.sub(lambda run: f" {' '.join(_pieces(run[0], searched_for))} ", _CONTROLS.sub(" ", text).lower())


def _pieces(run: str, searched_for: bool) -> list[str]:
    pairs = [run[n : n + 2] for n in range(len(run) - 1)]
    return pairs if searched_for and pairs else [*run, *pairs]


def _plain_topic(block: Any) -> str | None:
    """Spec: m.room.topic, `m.topic`: the first text/plain representation."""
    texts = block.get("m.text") if isinstance(block, dict) else None
    for text in texts if isinstance(texts, list) else ():
        if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
            body = text.get("body")
            return body if isinstance(body, str) else None
    return None
