"""The sizes of tables and indexes."""

from collections.abc import Mapping
from typing import TypeAlias

import asyncpg

#: (table, "") -> bytes of its rows, including long values; (table, index) -> bytes of an index.
Sizes: TypeAlias = Mapping[tuple[str, str], int]

_SIZES = """
    SELECT t.relname, coalesce(i.relname, ''), coalesce(pg_relation_size(i.oid), pg_table_size(t.oid))
    FROM pg_class t
    JOIN LATERAL (
      SELECT NULL::oid AS oid, NULL::name AS relname
      UNION ALL SELECT c.oid, c.relname FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = t.oid
    ) AS i ON true
    WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
"""


async def get_sizes(connection: asyncpg.Connection) -> Sizes:
    """Return the present file sizes of our tables and indexes."""
    return {(table, index): size for table, index, size in await connection.fetch(_SIZES)}


def growth(before: Sizes, after: Sizes) -> dict[tuple[str, str], int]:
    """Return the changes, the greatest first."""
    changed = {key: size - before.get(key, 0) for key, size in after.items() if size != before.get(key, 0)}
    return dict(sorted(changed.items(), key=lambda item: -item[1]))


def bytes_of(sizes: Sizes, table: str) -> tuple[int, int]:
    """Return the bytes of a table's rows and of its indexes."""
    indexes = sum(size for (name, index), size in sizes.items() if name == table and index)
    return sizes.get((table, ""), 0), indexes
