"""Arrays as parameters: columns of rows, and arrays of different lengths in one column, which travel as text."""

from collections.abc import Sequence
from typing import Any


def columns_of_rows(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Return one list per column. width: the number of columns, also of no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def number_array(numbers: Sequence[int]) -> str:
    """Return the text of an array of numbers."""
    return "{" + ",".join(map(str, numbers)) + "}"


def text_array(texts: Sequence[str]) -> str:
    """Return the text of an array of texts."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
