"""Query strings are parsed as the standard library parses them."""

from urllib.parse import parse_qs

from hypothesis import example, given
from hypothesis import strategies as st

from shared.http.request import MAX_QUERY_FIELDS, parse_query


def _reference(raw: bytes) -> dict[str, list[str]] | None:
    try:
        return parse_qs(raw.decode("ascii"), True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return None


def _ours(raw: bytes) -> dict[str, list[str]] | None:
    try:
        return parse_query(raw)
    except ValueError:
        return None


@given(st.text(alphabet="ab=&%+;2C3f\u00e9 #", max_size=60).map(str.encode))
@example(b"")
@example(b"a=%C3%A9&a=%C3&b")
@example(b"a=%C3%A9+%2B&&=x&a==&c=%zz")
@example(b"&" * (MAX_QUERY_FIELDS - 1))
@example(b"&" * MAX_QUERY_FIELDS)
def test_query_strings_parse_like_the_standard_library(raw: bytes) -> None:
    assert _ours(raw) == _reference(raw)
