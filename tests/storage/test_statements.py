"""Records of parameters: names in the SQL become numbers, and the record's values come in the same order."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from shared.core.identifiers import UserId
from shared.storage.engine.statements import (
    Integer,
    NoParameters,
    SmallInt,
    column_names,
    columns,
    parameters,
    resolve,
    statement,
)


class Pair(NamedTuple):
    user_id: UserId
    number: SmallInt | None


@columns
class Lines:
    text: list[str]
    flag: list[bool | None]
    size: list[Integer]


@columns
class LongLines(Lines):
    json: list[bytes]


@parameters
class Inner:
    known: int
    pairs: Sequence[Pair]


@parameters
class Everything:
    first: int
    pairs: Sequence[Pair]
    lines: Lines
    since: Inner
    last: str | None


@parameters
class More(Everything):
    more: int


EVERYTHING = Everything(
    first=1,
    pairs=[Pair(UserId("@a:b"), 2), Pair(UserId("@c:d"), None)],
    lines=Lines(text=["x"], flag=[None], size=[3]),
    since=Inner(known=4, pairs=[]),
    last=None,
)


def test_names_become_numbers_in_the_order_of_the_record() -> None:
    found = statement(Everything, ":last, :first::int, ':*', 'a:b', :pairs, :lines, :since.known, :since.pairs")
    assert found.sql == (
        "$10, $1::int, ':*', 'a:b', unnest($2::text[], $3::smallint[]),"
        " unnest($4::text[], $5::boolean[], $6::integer[]), $7, unnest($8::text[], $9::smallint[])"
    )
    values = [1, ["@a:b", "@c:d"], [2, None], ["x"], [None], [3], 4, [], [], None]
    assert list(found.values(EVERYTHING)) == values
    assert found.bind(EVERYTHING) == (found.sql, *values)


def test_sql_can_name_the_columns_and_arrays_of_a_set_of_rows() -> None:
    sql, _ = resolve(Inner, "INSERT INTO t (:pairs.columns) SELECT * FROM unnest(:pairs.arrays, :known)", ("lease",))
    assert sql == "INSERT INTO t (user_id, number) SELECT * FROM unnest($3::text[], $4::smallint[], $2)"
    sql, _ = resolve(Inner, "SELECT :known = ANY(:pairs.number) FROM :pairs")
    assert sql == "SELECT $1 = ANY($3::smallint[]) FROM unnest($2::text[], $3::smallint[])"
    assert resolve(Inner, "SELECT :known, :pairs.number, :pairs.user_id")[0] == "SELECT $1, $3::smallint[], $2::text[]"


def test_records_that_extend_others_add_their_fields_at_the_end() -> None:
    assert column_names(LongLines) == ("text", "flag", "size", "json")
    sql, values = resolve(More, ":first :pairs :lines :since.known :since.pairs :last :more", ("lease",))
    assert sql.endswith(" $11 $12")
    more = More(first=1, pairs=[], lines=EVERYTHING.lines, since=EVERYTHING.since, last="z", more=9)
    assert list(values(more))[-2:] == ["z", 9]


def test_a_statement_may_have_one_parameter_or_none() -> None:
    @parameters
    class One:
        one: int

    assert list(statement(One, ":one").values(One(one=5))) == [5]
    assert statement(NoParameters, "SELECT 1").bind(NoParameters()) == ("SELECT 1",)


def test_parameters_before_those_of_the_record_have_names_too() -> None:
    assert resolve(NoParameters, "SELECT :lease", ("lease",))[0] == "SELECT $1"


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT :known, :pairs, :unknown", "has no parameter 'unknown'"),
        ("SELECT :known, :pairs, :known.columns", "has no parameter 'known.columns'"),
        ("SELECT :known", "does not use \\['pairs'\\]"),
        ("SELECT :known, (:pairs.columns)", "does not use \\['pairs'\\]"),
        ("SELECT :known, :pairs.number", "does not use \\['pairs'\\]"),
        ("SELECT :known, :pairs, $3", "numbers a parameter"),
    ],
)
def test_text_and_record_that_differ_are_refused(sql: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        resolve(Inner, sql)


def test_fields_are_passed_by_name() -> None:
    with pytest.raises(TypeError):
        Inner(1, [])  # type: ignore[call-arg]
