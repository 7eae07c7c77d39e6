"""Statements whose parameters have names.

A record declares the parameters of a statement and their order, once. The SQL names them; `resolve` turns `:room_nid`
into a number such as `$3`, and the record into the values in the same order:

    @parameters
    class SetName:
        user_id: UserId
        name: str | None

    _SET_NAME = statement(SetName, "UPDATE users SET name = :name WHERE user_id = :user_id")

    await source.execute(*_SET_NAME.bind(SetName(user_id=user_id, name=name)))

A field may also be

- a set of rows, which travel as one array per column. It is a sequence of named tuples, such as
  `aliases: Sequence[Alias]`, or a record of whole columns, made with `@columns`. Their fields give the columns names
  and types. SQL reads the rows with `:aliases AS a(:aliases.columns)`. `:aliases.arrays` are the arrays, and
  `:aliases.room_nid` is the array of one column;
- another record of parameters, whose fields SQL names with a dot, such as `:since.known`.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter
from types import NoneType
from typing import (
    Annotated,
    Any,
    Generic,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from shared.storage.engine.arrays import columns_of_rows

#: The types of columns that are not what `_SQL_TYPES` has for the Python type.
SmallInt = Annotated[int, "smallint"]
Integer = Annotated[int, "integer"]

_SQL_TYPES = {int: "bigint", str: "text", bytes: "bytea", bool: "boolean"}
#: Neither the second colon of a cast (`::bigint`) nor one in the middle of a text (`'a:b'`).
_PLACEHOLDER = re.compile(r"(?<![:\w]):([a-z]\w*(?:\.[a-z]\w*)*)")
_NUMBER = re.compile(r"\$\d")
_ARE_COLUMNS = "__are_columns__"

_Record = TypeVar("_Record")
Parameters = TypeVar("Parameters")
Values = Callable[[Parameters], Sequence[Any]]


@dataclass_transform(kw_only_default=True)
def parameters(record: type[_Record]) -> type[_Record]:
    """Make a class a record of parameters. Its fields are passed by name."""
    return dataclasses.dataclass(kw_only=True, slots=True)(record)


@dataclass_transform(kw_only_default=True)
def columns(record: type[_Record]) -> type[_Record]:
    """Make a class a record of whole columns, each of whose fields is a list. Its fields are passed by name."""
    made = dataclasses.dataclass(kw_only=True, slots=True)(record)
    setattr(made, _ARE_COLUMNS, True)
    return made


@parameters
class NoParameters:
    """The parameters of a statement that has none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statement(Generic[Parameters]):
    """A statement and how it takes its parameters.

    sql: the text, with numbers for the names.
    values: returns the values of a record of parameters in the order of the numbers.
    """

    sql: str
    values: Values[Parameters]

    def bind(self, record: Parameters) -> tuple[Any, ...]:
        """Return the arguments for `Source.fetch` and its like."""
        return (self.sql, *self.values(record))


def statement(record: type[Parameters], sql: str) -> Statement[Parameters]:
    """Return a statement with these parameters. Raises ValueError as `resolve` does."""
    return Statement(*resolve(record, sql))


def resolve(record: type[Parameters], sql: str, before: Sequence[str] = ()) -> tuple[str, Values[Parameters]]:
    """Return the text with numbers for the names, and the function that returns a record's values in their order.

    before: names of parameters that precede those of the record.
    Raises ValueError if the text numbers a parameter itself, names one that the record lacks, or leaves one out.
    PostgreSQL would refuse most of these, but only when the statement is used.
    """
    if _NUMBER.search(sql):
        raise ValueError(f"a statement with {record.__name__} numbers a parameter: name it")
    texts = {name: f"${number}" for number, name in enumerate(before, 1)}
    fields = list(_fields(record))
    first = len(before) + 1
    for field in fields:
        last = first + len(field.columns or ("",))
        if field.columns is None:
            texts[field.name] = f"${first}"
        else:
            arrays = [f"${number}::{kind}[]" for number, kind in enumerate(field.columns.values(), first)]
            texts |= {f"{field.name}.{column}": array for column, array in zip(field.columns, arrays, strict=True)}
            texts[f"{field.name}.arrays"] = ", ".join(arrays)
            texts[f"{field.name}.columns"] = ", ".join(field.columns)
            texts[field.name] = f"unnest({', '.join(arrays)})"
        first = last
    used: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        if name not in texts:
            raise ValueError(f"{record.__name__} has no parameter {name!r}")
        used.add(name)
        return texts[name]

    text = _PLACEHOLDER.sub(replace, sql)
    unused = [field.name for field in fields if not field.is_used(used)]
    if unused:
        raise ValueError(f"a statement does not use {unused} of {record.__name__}")
    return text, _values_of(fields)


def column_names(record: type[Any]) -> tuple[str, ...]:
    """Return the names of a record of columns, in order."""
    return tuple(field.name for field in dataclasses.fields(record))


class _Field(NamedTuple):
    """A parameter, or a set of rows.

    name: its path in the record, such as "since.known".
    columns: name -> SQL type. Of a set of rows only.
    is_rows: True for a sequence of rows, False for a record of columns.
    """

    name: str
    columns: dict[str, str] | None = None
    is_rows: bool = False

    def is_used(self, names: AbstractSet[str]) -> bool:
        """Return True if these names use the parameter, or all columns of the set."""
        if self.name in names or f"{self.name}.arrays" in names:
            return True
        return self.columns is not None and all(f"{self.name}.{column}" in names for column in self.columns)


def _fields(record: type[Any], inside: str = "") -> Iterator[_Field]:
    hints = get_type_hints(record, include_extras=True)
    for name in column_names(record):
        hint = hints[name]
        if hasattr(hint, _ARE_COLUMNS):
            types = get_type_hints(hint, include_extras=True)
            columns = {column: _sql_type(get_args(types[column])[0]) for column in column_names(hint)}
            yield _Field(inside + name, columns)
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{inside}{name}.")
        elif (row := _row_type(hint)) is not None:
            types = get_type_hints(row, include_extras=True)
            columns = {column: _sql_type(types[column]) for column in row._fields}
            yield _Field(inside + name, columns, is_rows=True)
        else:
            yield _Field(inside + name)


def _row_type(hint: Any) -> Any:
    """Return the type of named tuple that the field is a sequence of; None for other fields."""
    if get_origin(hint) is Sequence:
        [row] = get_args(hint)
        if isinstance(row, type) and issubclass(row, tuple):
            return row
    return None


def _sql_type(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        kind: str = get_args(hint)[1]
        return kind
    options = [option for option in get_args(hint) if option is not NoneType]
    if options:
        return _sql_type(options[0])
    return _SQL_TYPES[getattr(hint, "__supertype__", hint)]  # UserId and its like are texts


def _values_of(fields: Sequence[_Field]) -> Values[Any]:
    reads: list[Values[Any]] = []
    for are_plain, group in itertools.groupby(fields, lambda field: field.columns is None):
        if are_plain:
            reads.append(_all_of([field.name for field in group]))
        else:
            reads.extend(map(_columns_of, group))
    if len(reads) == 1:
        return reads[0]

    def values(record: Any) -> list[Any]:
        found: list[Any] = []
        for read in reads:
            found += read(record)
        return found

    return values


def _all_of(paths: Sequence[str]) -> Values[Any]:
    get = attrgetter(*paths)
    return get if len(paths) > 1 else lambda record: (get(record),)


def _columns_of(field: _Field) -> Values[Any]:
    assert field.columns is not None
    get, width = attrgetter(field.name), len(field.columns)
    if field.is_rows:
        return lambda record: columns_of_rows(get(record), width)
    columns = _all_of(list(field.columns))
    return lambda record: columns(get(record))
