"""One form for texts that people take for the same: without regard to case and to Unicode's normal forms."""

import unicodedata


def fold(text: str) -> str:
    """Return the text folded for comparison.

    "Ü" may be one character or two, in either case, and "ﬁ" is "fi". Accents count.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", text).casefold())
