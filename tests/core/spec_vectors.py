"""Assertable examples of the Matrix specification v1.19, as data: `tests/vectors/matrix_spec.json`.

`derived: false` marks numbers that stand in the spec itself; the others were worked out from its rules.
"""

import json
from pathlib import Path
from typing import Any

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "matrix_spec.json").read_text(encoding="utf-8")
)
