"""The copy of the specification's examples is current, if the original is available."""

import json
from pathlib import Path

import pytest

from tests.core.spec_vectors import VECTORS

_ORIGINAL = Path(__file__).parents[3] / "shared" / "spec" / "test_vectors.json"


@pytest.mark.skipif(not _ORIGINAL.exists(), reason="the specification as data is not beside this checkout")
def test_copy_of_the_spec_examples_is_current() -> None:
    original = json.loads(_ORIGINAL.read_text(encoding="utf-8"))
    assert {key: original[key] for key in VECTORS} == VECTORS
