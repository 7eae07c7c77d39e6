"""Validation of a value against an OpenAPI schema, including fields that the schema does not have.

The specification's schemas require little, so an empty answer passes nearly all of them. The steps check the contents.
Fields that are not in the schema are faults here, because a client cannot know their meaning.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.spec_walk.operations import load

#: Allowed fields that the schemas lack: name -> (place, reason).
KNOWN_BESIDE = {
    "device_unused_fallback_key_types": ("$", "/sync: only the prose on end-to-end encryption has it"),
    "m.relations": (".unsigned", "only the prose on aggregations has it"),
    "fallback": (".one_time_keys.", "claimed fallback keys: only the prose on them has it"),
    "sender": (".presence.events[", "the schema of m.presence has it, that of /sync's section does not"),
    "receipts": ("$", "/initialSync of a room: bots from before /sync read it"),
    "presence": ("$", "/initialSync of a room: bots from before /sync read it"),
}
_NULL_IN = ("$.devices[", "$.display_name", "$.last_seen_", "$.joined.")
#: Fields that are null if unknown, though the schema declares another type: name -> (places, reason).
KNOWN_NULL = dict.fromkeys(
    ("avatar_url", "display_name", "last_seen_ip", "last_seen_ts"),
    (_NULL_IN, "deployed clients fail without these keys of devices and of joined members"),
)
#: Types in the chunk of /events that deployed clients from before /sync read beside room events.
_OUTSIDE_ROOMS = ("m.presence", "m.receipt", "m.typing", "m.tag", "m.push_rules", "m.fully_read")
_UNSTABLE = ("org.matrix.", "io.element.", "com.beeper.", "fi.mau.")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def faults(schema: Any, file: Path, value: Any, place: str = "$") -> Iterator[str]:
    """Yield each fault as "place: description". file: the schema's file, for its references."""
    yield from _faults(list(_parts(schema, file)), value, place)


_Parts = list[tuple[dict[str, Any], Path]]


def _faults(parts: _Parts, value: Any, place: str) -> Iterator[str]:
    """Yield the faults of a value. parts: schemas that all apply to the value."""
    for part, file in parts:
        yield from _plain_faults(part, value, place)
        for alternatives in (part.get("oneOf"), part.get("anyOf")):
            if alternatives:
                found = [list(faults(each, file, value, place)) for each in alternatives]
                if all(found):
                    yield from min(found, key=len)
    if isinstance(value, dict):
        yield from _object_faults(parts, value, place)
    if isinstance(value, list):
        items = [inner for part, file in parts if "items" in part for inner in _parts(part["items"], file)]
        for number, each in enumerate(value):
            yield from _faults(items, each, f"{place}[{number}]")


def _parts(schema: Any, file: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the schema and those that it includes by `$ref` and `allOf`, each with its file."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        name, _, inner = schema["$ref"].partition("#")
        target = (file.parent / name).resolve() if name else file
        found = load(target)
        for step in filter(None, inner.split("/")):
            found = found[step]
        yield from _parts(found, target)
    yield schema, file
    for each in schema.get("allOf", ()):
        yield from _parts(each, file)


def _plain_faults(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    kinds = schema.get("type")
    names = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    if names and not any(_is_a(name, value) for name in names) and not _is_known_null(value, place):
        yield f"{place}: {type(value).__name__} where {names} is declared"
    if "enum" in schema and value not in schema["enum"] and names != ["boolean"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value and not _is_outside_rooms(value, place):
                yield f"{place}: {name} is missing"


def _is_outside_rooms(value: dict[str, Any], place: str) -> bool:
    """Return True for an entry of /events that is no room event, which the schema does not foresee."""
    return place.startswith("$.chunk[") and value.get("type") in _OUTSIDE_ROOMS


def _is_known_null(value: Any, place: str) -> bool:
    places, _ = KNOWN_NULL.get(place.rpartition(".")[2], ((), ""))
    return value is None and place.startswith(places)


def _is_a(name: str, value: Any) -> bool:
    if name == "null":
        return value is None
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _object_faults(parts: _Parts, value: dict[str, Any], place: str) -> Iterator[str]:
    known: dict[str, _Parts] = {}
    beside: list[_Parts] = []
    described = False
    for part, file in parts:
        for name, inner in (part.get("properties") or {}).items():
            described = True
            known.setdefault(name, []).extend(_parts(inner, file))
        for inner in (part.get("additionalProperties"), *(part.get("patternProperties") or {}).values()):
            if inner:
                beside.append([] if inner is True else list(_parts(inner, file)))
        for each in (*part.get("oneOf", ()), *part.get("anyOf", ())):
            for inner_part, _ in _parts(each, file):  # the alternatives were checked one by one
                described = described or bool(inner_part.get("properties"))
                for name in inner_part.get("properties") or {}:
                    known.setdefault(name, [])
                if inner_part.get("additionalProperties"):
                    beside.append([])
    for name, each in value.items():
        if name in known:
            yield from _faults(known[name], each, f"{place}.{name}")
        elif beside:
            found = [list(_faults(inner, each, f"{place}.{name}")) for inner in beside]
            if all(found):
                yield from min(found, key=len)
        elif described and not name.startswith(_UNSTABLE) and not _is_known_beside(name, place):
            yield f"{place}: {name} is not in the schema"


def _is_known_beside(name: str, place: str) -> bool:
    where, _ = KNOWN_BESIDE.get(name, ("", ""))
    return bool(where) and where in place
