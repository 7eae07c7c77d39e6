"""Realistic text: sentences in 34 languages and a dozen scripts, with awkward kinds of emoji.

The sentences are the translations that ship with WTForms (BSD), a small package that is installed only for them.
"""

import gettext
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

#: One emoji of each kind that breaks text handling: beyond the BMP, variation selector, skin tone, joined family,
#: joined profession, flag of two letters, flag made of tags, keycap, and an old symbol character.
EMOJI = ("🐝", "❤️", "👋🏽", "👩‍👩‍👧‍👦", "🧑🏿‍🚀", "🇺🇦", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "7️⃣", "☃", "🫠")

_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]")


@dataclass(frozen=True, slots=True)
class Sentence:
    language: str
    text: str


@cache
def sentences() -> tuple[Sentence, ...]:
    """Return every sentence of the corpus, ordered by language."""
    spec = find_spec("wtforms")
    assert spec is not None and spec.origin is not None
    found = []
    for file in sorted(Path(spec.origin).parent.glob("locale/*/LC_MESSAGES/*.mo")):
        with file.open("rb") as opened:
            catalogue: dict[object, str] = vars(gettext.GNUTranslations(opened))["_catalog"]
        language = file.parents[1].name
        texts = {
            text for source, text in catalogue.items() if source and text
        }  # the empty source is the catalogue's header
        found += [Sentence(language, _PLACEHOLDER.sub("3", text)) for text in sorted(texts)]
    return tuple(found)


def messages(seed: int) -> Iterator[str]:
    """Yield endless messages of one to four sentences in one or two languages, every third with emoji.

    The same seed gives the same messages.
    """
    chance = random.Random(seed)
    corpus = sentences()
    while True:
        parts = [chance.choice(corpus).text for _ in range(chance.choice((1, 1, 2, 4)))]
        if chance.random() < 1 / 3:
            parts.insert(chance.randrange(len(parts) + 1), "".join(chance.choices(EMOJI, k=chance.randint(1, 3))))
        yield chance.choice((" ", "\n")).join(parts)
