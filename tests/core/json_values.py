"""Hypothesis strategies for JSON, from plain to nasty."""

from typing import Any

from hypothesis import strategies as st

#: Texts of several scripts, with control characters, NUL, emoji and code points beyond the BMP.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
safe_integers = st.integers(-(2**53) + 1, 2**53 - 1)

_strict_leaves = st.none() | st.booleans() | safe_integers | texts
_any_leaves = _strict_leaves | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    )


strict_values = _nested(_strict_leaves)
any_values = _nested(_any_leaves)
strict_objects = st.dictionaries(texts, strict_values, max_size=5)
any_objects = st.dictionaries(texts, any_values, max_size=5)
