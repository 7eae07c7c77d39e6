"""Estimates of the memory that values take, in bytes.

Every cache, queue and registry that a client can fill is limited in bytes. To estimate an entry:

1. Begin with a constant for the objects that each entry has: the record, the key's tuple, the places in dictionaries.
   Measure it with tracemalloc, for ids of usual length.
2. Add `text_size` of each text that a client chooses, however short its limit: 255 characters may be 1 KB. A text of
   bytes counts with `len`.
3. Count what only this entry keeps in memory. A text that a cached event owns counts there.
4. Use `deep_size` where values are nested and seldom made, such as parsed filters. It walks the value.

`tests/memory/` fills each cache with small, large and hostile contents, and compares the estimate with what Python
allocated: neither may exceed the other by more than half.
"""

import dataclasses
import enum
from sys import getsizeof
from types import MappingProxyType
from typing import Any, Final

#: The size of a text or of bytes. Texts beyond Latin-1 take two or four bytes a character.
text_size: Final = getsizeof

#: A place in a dictionary or ordered dictionary of many entries, with its share of the table's free places.
DICT_ENTRY_BYTES = 110
#: A place in a set of many entries.
SET_ENTRY_BYTES = 60

_ATOMS = (str, bytes, int, float)
_CONSTANT_TEXT_CHARS = 1  # CPython has one object for each of these
_CONSTANT_INTS = range(-5, 257)


def optional_size(*texts: str | bytes | None) -> int:
    """Return the size of those of the texts that are not None."""
    return sum(getsizeof(text) for text in texts if text is not None)


def json_size(json: bytes) -> int:
    """Return about the size of decoded JSON, without `json` itself.

    Its writer chose it: in `[[],[],[]]` each value of three bytes is an object of 56, and a key takes 100 with its
    place.
    """
    texts, keys = json.count(b'"') // 2, json.count(b'":')
    containers = json.count(b"{") + json.count(b"[")
    return len(json) + 52 * texts + 45 * keys + 60 * containers + 15 * json.count(b",")


def deep_size(*values: Any) -> int:
    """Return the size of nested values: texts, numbers, collections, and records with slots.

    An object that occurs twice counts once. Classes, functions, enum members and the like are shared by all values, so
    they do not count.
    """
    size = 0
    seen: set[int] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value is None or isinstance(value, bool | type | enum.Enum) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _ATOMS):
            size += 0 if _is_constant(value) else getsizeof(value)
            continue
        if isinstance(value, dict | MappingProxyType):
            size += getsizeof(value)
            todo.extend(value)
            todo.extend(value.values())
        elif isinstance(value, tuple | list | set | frozenset):
            size += getsizeof(value) if value != () else 0
            todo.extend(value)
        elif dataclasses.is_dataclass(value) or hasattr(value, "__slots__"):
            size += getsizeof(value)
            todo.extend(getattr(value, name, None) for name in _slots_of(type(value)))
            todo.extend(getattr(value, "__dict__", {}).values())
        elif not callable(value):
            size += getsizeof(value)
    return size


def _is_constant(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= _CONSTANT_TEXT_CHARS
    return isinstance(value, int) and value in _CONSTANT_INTS


def _slots_of(cls: type) -> list[str]:
    names: list[str] = []
    for part in cls.__mro__:
        slots = part.__dict__.get("__slots__", ())
        names.extend((slots,) if isinstance(slots, str) else slots)
    return [name for name in names if name not in ("__weakref__", "__dict__")]
