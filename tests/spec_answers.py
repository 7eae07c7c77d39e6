"""Validation of answers against the specification's response schemas, if its data is beside this checkout."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

_API = Path(__file__).parents[2] / "shared" / "spec" / "openapi" / "api" / "client-server"
_MAX_DEPTH = 12  # events may hold events


def check_answer(file: str, path: str, method: str, answer: Any) -> None:
    """Fail when a 200 answer violates its schema. Without the spec nothing is checked. path: as in the file."""
    if _API.exists():
        jsonschema.validate(answer, _schema(file, path, method))


@cache
def _schema(file: str, path: str, method: str) -> Any:
    document = _load(_API / file)
    operation = document["paths"][path][method]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return _resolved(schema, _API / file, 0)


@cache
def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _resolved(value: Any, file: Path, depth: int) -> Any:
    """Return the schema with its references replaced, down to some depth. Below that, everything is valid."""
    if depth > _MAX_DEPTH * 4:
        return {}
    if isinstance(value, list):
        return [_resolved(each, file, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        name, _, inner = value["$ref"].partition("#")
        target = (file.parent / name).resolve() if name else file
        found = _load(target)
        for part in filter(None, inner.split("/")):
            found = found[part]
        return _resolved(found, target, depth + 4)
    kept = {key: each for key, each in value.items() if key not in ("example", "examples", "description")}
    return {key: _resolved(each, file, depth + 1) for key, each in kept.items()}
