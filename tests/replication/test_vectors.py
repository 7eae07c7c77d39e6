"""Position vectors and sync tokens: their algebra, and forged tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.streams import TOKEN_LETTERS
from shared.core.errors import MatrixError
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector, format_vector, parse_vector, vector_of

positions = st.integers(0, 10**12)


@st.composite
def vectors(draw: st.DrawFn) -> Vector:
    known = draw(st.integers(0, 30))
    base = draw(positions)
    writers = draw(st.lists(st.integers(1, known), unique=True, max_size=8)) if known else []
    return Vector(known, base, {writer: base + draw(st.integers(1, 10**6)) for writer in writers})


@given(vectors())
def test_vector_survives_formatting(vector: Vector) -> None:
    assert parse_vector(format_vector(vector)) == vector


@given(st.dictionaries(st.sampled_from(list(TOKEN_LETTERS)), vectors()))
def test_token_survives_formatting(parts: dict[str, Vector]) -> None:
    assert parse_token(format_token(StreamToken(parts), TOKEN_LETTERS), TOKEN_LETTERS).vectors == parts


@given(vectors(), st.integers(1, 40), positions, positions)
def test_capped_vector_covers_common_positions(vector: Vector, writer: int, position: int, cap: int) -> None:
    capped = vector.capped(cap)
    assert capped.covers(writer, position) == (vector.covers(writer, position) and position <= cap)


@given(st.dictionaries(st.integers(1, 20), positions, min_size=1), st.data())
def test_reader_vector_covers_exactly_its_positions(by_writer: dict[int, int], data: st.DataObject) -> None:
    living = data.draw(st.lists(st.sampled_from(sorted(by_writer)), min_size=1, unique=True))
    # The session forgets a dead writer once all others are beyond it, so only tracked writers count.
    vector = vector_of(20, by_writer, living)
    for writer, position in by_writer.items():
        assert vector.covers(writer, position) or writer not in living
        assert not (writer in living and vector.covers(writer, position + 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s2_e1.2",
        "s1_e1",
        "s1_e1.x",
        "s1_e1.-2",
        "s1_e1.2.3-4",
        "s1_e3.9.2-9",
        "s1_e3.9.2-",
        "s1_e1.2\x00",
        "s1_e" + "9" * 30 + ".1",
    ],
)
def test_malformed_token_is_refused(text: str) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_token(text, TOKEN_LETTERS)
    assert caught.value.errcode == "M_INVALID_PARAM"


def test_stream_of_later_release_is_skipped() -> None:
    assert parse_token("s1_e1.5_Z9.9.9-99", TOKEN_LETTERS).vectors == {"events": Vector(1, 5)}
