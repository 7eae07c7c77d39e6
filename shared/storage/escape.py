"""Text that PostgreSQL refuses: U+0000 is legal in Matrix strings, and `text` cannot hold it.

The escape is reversible and leaves all other strings as they are, so that the columns stay readable and indexable.
"""


def escape(text: str) -> str:
    """Return the text as it is stored: U+001A becomes U+001A "1", U+0000 becomes U+001A "0"."""
    if "\x00" not in text and "\x1a" not in text:
        return text
    return text.replace("\x1a", "\x1a1").replace("\x00", "\x1a0")


def unescape(stored: str) -> str:
    """Return what `escape` was given."""
    if "\x1a" not in stored:
        return stored
    return stored.replace("\x1a0", "\x00").replace("\x1a1", "\x1a")
