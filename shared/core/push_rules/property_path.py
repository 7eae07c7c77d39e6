"""Paths of event properties, such as `content.m\\.relates_to.rel_type`. Spec: appendices, "Dot-separated property
paths"."""

import re
from collections.abc import Mapping
from typing import Any, Final

#: Stands for a property that is not there, as null is a value.
ABSENT: Final[Any] = object()
_PART_RE = re.compile(r"\\[.\\]|.", re.DOTALL)


def split_path(path: str) -> tuple[str, ...]:
    """Return the property names of a path. `\\.` is a dot, `\\\\` a backslash; other escapes stand for themselves."""
    names = [""]
    for part in _PART_RE.findall(path):
        if part == ".":
            names.append("")
        else:
            names[-1] += part[-1]
    return tuple(names)


def value_at(properties: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return what stands there, ABSENT where one of the names is missing or no object is on the way."""
    value: Any = properties
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value
