"""Values as parameters of statements: text without U+0000, and rows as one array per column.

U+0000 is legal in Matrix strings, and PostgreSQL's `text` cannot hold it. The escape is reversible and leaves all other
strings as they are, so that the columns stay readable and indexable.
"""

from collections.abc import Sequence
from typing import Any


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


def unnest(first: int, *types: str) -> str:
    """Return the SQL that makes rows of one array parameter per column, $first being that of the first column."""
    return unnest_of([(first + n, kind) for n, kind in enumerate(types)])


def unnest_of(parameters: Sequence[tuple[int, str]]) -> str:
    """parameters: their number and the type of the column."""
    return "unnest(" + ", ".join(f"${number}::{kind}[]" for number, kind in parameters) + ")"


def columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Turn rows of `count` values into one list per column."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]


def array(values: Sequence[int]) -> str:
    """Return numbers as the text of an array: arrays of different lengths travel so."""
    return "{" + ",".join(map(str, values)) + "}"
