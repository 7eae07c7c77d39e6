"""Examples of the Matrix specification v1.19, as data for assertions: `tests/vectors/matrix_spec.json`.

`derived: false` marks numbers that are in the spec itself. The others were derived from its rules.
"""

import json
from pathlib import Path
from typing import Any

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "matrix_spec.json").read_text(encoding="utf-8")
)
