"""The configuration described for programs (JSON schema) and for people (docs/configuration.md).

The texts are the docstrings in `sections.py`, so that a setting cannot be added without its description.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from shared.config.kinds import Check, Form, Range, Secret
from shared.config.reading import Reading, default_of, environment_name, is_secret, keys_of
from shared.config.sections import Config, RateLimits, Shares

_INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from shared/config/sections.py; edit that file. -->

One YAML file configures the whole fleet; it is the same for every process on every host. `skep config check FILE` lists
everything that is wrong with a file at once, `skep config generate` writes a file to start from, and
`skep config schema` prints the JSON schema for editors. Relative paths count from the file's directory.

Every setting on this page has an effect: a test finds the code that reads it.

**Secrets** can be given in three ways: as the key itself; as a file, with `_file` added to the key's name; or as an
environment variable made of the key's path, which wins. `database.password` is also `database.password_file` and
`SKEP_DATABASE_PASSWORD`.

A key without a default is required.

## Top level

"""

_JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    Path: "string",
    Secret: "string",
}


def field_texts(record: type) -> dict[str, str]:
    """Return the docstring below each field of a section, as one line; "" where a field has none."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(record)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            texts[statement.target.id] = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts


def section_text(record: type) -> str:
    """Return a section's docstring as one line."""
    return " ".join((record.__doc__ or "").split())


def plain(value: Any) -> Any:
    """Return a value in the types of YAML and JSON. Secrets are hidden."""
    if dataclasses.is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in keys_of(type(value))}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path | Secret):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: Sections whose values are small records of one type, with the field that shows it and its name there.
ON_ONE_LINE: Mapping[type, tuple[str, str]] = {RateLimits: ("message", "<class>"), Shares: ("polls", "<work>")}


def record_in(hint: Any) -> type | None:
    """Return the section in a type, also in X | None or tuple[X, ...]; None for other types."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((found for each in get_args(hint) if (found := record_in(each))), None)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the configuration file, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Skep configuration",
        **_record_schema(Config),
    }


def _record_schema(record: type) -> dict[str, Any]:
    texts, properties, required = field_texts(record), {}, []
    for name, hint in keys_of(record).items():
        schema = _type_schema(hint)
        if texts[name]:
            schema["description"] = texts[name]
        default = default_of(record, name)
        if default is dataclasses.MISSING:
            # A required secret may come from its file or the environment, so the schema cannot require the key.
            if not is_secret(hint) and name not in ("signing", "secrets"):
                required.append(name)
        elif record_in(hint) is None or default is None or isinstance(default, tuple):
            schema["default"] = plain(default)
        properties[name] = schema
        if is_secret(hint):
            properties[f"{name}_file"] = {"type": "string", "description": f"File that holds {name}."}
    return {
        "type": "object",
        "description": section_text(record),
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _type_schema(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = next(each for each in arguments if each is not type(None))
        return {"anyOf": [_type_schema(rest), {"type": "null"}]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record_schema(hint)
    if origin is tuple:
        return {"type": "array", "items": _type_schema(arguments[0])}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is Annotated:
        schema = _type_schema(arguments[0])
        for limit in arguments[1:]:
            match limit:
                case Range(least, greatest):
                    schema |= {} if least is None else {"minimum": least}
                    schema |= {} if greatest is None else {"maximum": greatest}
                case Form(pattern, _):
                    schema["pattern"] = f"^({pattern})$"
                case Check(words, _):
                    schema["description"] = words
        return schema
    return {"type": _JSON_TYPES[hint]}


def documentation() -> str:
    """Return docs/configuration.md: every section and key with type, limits, default and meaning."""
    lines = [*_INTRODUCTION.splitlines(), *_table(Config, "", scalars_only=True)]
    for name, hint in keys_of(Config).items():
        record = record_in(hint)
        if record is not None:
            lines.extend(_chapter(record, name, 2))
    return "\n".join(lines).rstrip() + "\n"


def _chapter(record: type, key: str, depth: int) -> Iterator[str]:
    yield from ("", f"{'#' * depth} `{key}`", "", section_text(record), "")
    table = list(_table(record, key, scalars_only=False))
    if len(table) > 2:
        yield from table
    for name, hint in keys_of(record).items():
        inner = record_in(hint)
        shown, title = ON_ONE_LINE.get(record, (name, name + ("[]" if get_origin(hint) is tuple else "")))
        if inner is not None and name == shown:
            yield from _chapter(inner, f"{key}.{title}", min(depth + 1, 4))


def _table(record: type, key: str, *, scalars_only: bool) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    words = Reading(Path(), {}).expected
    texts = field_texts(record)
    for name, hint in keys_of(record).items():
        default = default_of(record, name)
        inner = record_in(hint)
        if inner is not None and record not in ON_ONE_LINE and (scalars_only or dataclasses.is_dataclass(default)):
            continue  # a section of its own below
        kind = words(hint).replace("|", "\\|")
        if is_secret(hint):
            kind = f"**secret** text (`{environment_name(f'{key}.{name}')}`)"
        shown = "required" if default is dataclasses.MISSING else f"`{_inline(plain(default))}`"
        yield f"| `{name}` | {kind} | {shown} | {texts[name]} |"


def _inline(value: Any) -> str:
    """Return a value in YAML's flow form, shortened where a list is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            shown = ", ".join(_inline(each) for each in value[:3])
            return f"[{shown}{', ...' if len(value) > 3 else ''}]"
        case dict():
            return "{" + ", ".join(f"{name}: {_inline(each)}" for name, each in value.items()) + "}"
        case _:
            return str(value)
