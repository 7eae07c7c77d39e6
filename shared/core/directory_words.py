"""PURE: the words by which users are found, and those of what somebody looks for.

Case and accents do not count. Scripts that have no spaces are cut into characters and pairs (`search_words.py`). Of a
user id only the localpart is words: else the name of the server would find everybody.
Spec: client-server API, POST /user_directory/search.
"""

import re
import unicodedata

from shared.core.search_words import split_words

MAX_TERM_CHARS = 512
_MAX_WORDS = 40  # of one user
_MAX_TERM_WORDS = 8
_MAX_WORD_CHARS = 64
_WORD = re.compile(r"[^\W_]+")


def directory_words(user_id: str, display_name: str | None) -> list[str]:
    """Return the words of one user, each once."""
    words = dict.fromkeys(_words(_localpart(user_id), searched_for=False))
    words |= dict.fromkeys(_words(display_name or "", searched_for=False))
    return list(words)[:_MAX_WORDS]


def term_words(term: str) -> list[str]:
    """Return what each user found must have a word beginning with, all of them; empty: nobody is looked for."""
    return list(dict.fromkeys(_words(_localpart(term), searched_for=True)))[:_MAX_TERM_WORDS]


def user_id_prefix(term: str) -> str | None:
    """Return how the user id must begin, in lower case, where one is looked for with some of its server's name."""
    folded = term.strip().lower()
    return folded if folded.startswith("@") and ":" in folded and folded.isprintable() else None


def _localpart(text: str) -> str:
    text = text.strip()
    return text[1:].partition(":")[0] if text.startswith("@") else text


def _words(text: str, *, searched_for: bool) -> list[str]:
    folded = unicodedata.normalize("NFKD", text[: MAX_TERM_CHARS * 2].casefold())
    bare = "".join(each for each in folded if not unicodedata.combining(each))
    return [word[:_MAX_WORD_CHARS] for word in _WORD.findall(split_words(bare, searched_for=searched_for))]
