"""The words of the user directory: those by which a user is found, and those of a search term.

Case and accents do not count. Scripts without spaces are cut into characters and pairs (`event_text.py`). Only the
localpart of a user id is indexed; otherwise a server's name would match all of its users.
Spec: client-server API, POST /user_directory/search.
"""

import re
import unicodedata

from shared.core.identifiers import UserId
from shared.core.search.event_text import split_words

MAX_TERM_CHARS = 512
_MAX_WORDS = 40  # per user
_MAX_TERM_WORDS = 8
_MAX_WORD_CHARS = 64
_WORD = re.compile(r"[^\W_]+")


def directory_words(user_id: UserId, display_name: str | None) -> list[str]:
    """Return the distinct words of one user."""
    words = dict.fromkeys(_words(_localpart(user_id), is_query=False))
    words |= dict.fromkeys(_words(display_name or "", is_query=False))
    return list(words)[:_MAX_WORDS]


def term_words(term: str) -> list[str]:
    """Return the prefixes of a search term; a user matches if each is the beginning of one of their words."""
    return list(dict.fromkeys(_words(_localpart(term), is_query=True)))[:_MAX_TERM_WORDS]


def user_id_prefix(term: str) -> str | None:
    """Return the prefix of the user id, in lower case, if the term is a user id with some of its server's name."""
    folded = term.strip().lower()
    return folded if folded.startswith("@") and ":" in folded and folded.isprintable() else None


def _localpart(text: str) -> str:
    text = text.strip()
    return text[1:].partition(":")[0] if text.startswith("@") else text


def _words(text: str, *, is_query: bool) -> list[str]:
    folded = unicodedata.normalize("NFKD", text[: MAX_TERM_CHARS * 2].casefold())
    bare = "".join(each for each in folded if not unicodedata.combining(each))
    return [word[:_MAX_WORD_CHARS] for word in _WORD.findall(split_words(bare, is_query=is_query))]
