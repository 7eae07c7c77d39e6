"""Vectors (`shared/core/sync_tokens/vector.py`) as parameters of statements."""

from shared.core.sync_tokens.vector import Vector
from shared.storage.engine.statements import columns, parameters


@columns
class WriterPositions:
    """The writers above the base, and their positions."""

    writer: list[int]
    position: list[int]


@parameters
class VectorParameter:
    known: int
    base: int
    above: WriterPositions


def vector_parameter(vector: Vector) -> VectorParameter:
    """Return a vector as a parameter."""
    above = WriterPositions(writer=list(vector.above), position=list(vector.above.values()))
    return VectorParameter(known=vector.known, base=vector.base, above=above)


def is_covered(row: str, vector: str) -> str:
    """Return the SQL condition that a vector covers a row.

    row: the alias of a table with the columns `writer` and `position`.
    vector: the name of a parameter.
    """
    return f"""(
        {row}.writer <= :{vector}.known AND {row}.position <= coalesce(
            (SELECT a.position FROM :{vector}.above AS a(:{vector}.above.columns) WHERE a.writer = {row}.writer),
            :{vector}.base::bigint)
    )"""
