"""Rows as parameters of a statement: one array per column."""

from collections.abc import Sequence
from typing import Any


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
