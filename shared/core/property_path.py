"""Paths of event properties, such as `content.m\\.relates_to.rel_type`.

Spec: appendices, "Dot-separated property paths".
"""

import re
from collections.abc import Mapping
from typing import Any, Final

#: The value of a missing property. None cannot serve, since null is a value.
ABSENT: Final[Any] = object()
_PART_RE = re.compile(r"\\[.\\]|.", re.DOTALL)


def split_path(path: str) -> tuple[str, ...]:
    r"""Return the keys of a dot-separated path: "content.m\.relates_to" -> ("content", "m.relates_to").

    A backslash escapes a dot or a backslash. Before any other character it is a backslash.
    """
    if "\\" not in path:
        return tuple(path.split("."))
    names = [""]
    for part in _PART_RE.findall(path):
        if part == ".":
            names.append("")
        else:
            names[-1] += part[-1]
    return tuple(names)


def value_at(properties: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value at a path, or ABSENT if a name is missing or a value on the way is no object."""
    value: Any = properties
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value
