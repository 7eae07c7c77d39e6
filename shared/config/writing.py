"""Write YAML: samples with comments, and the effective values of a running fleet."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.config.kinds import Secret
from shared.config.reading import default_of, is_secret, keys_of
from shared.config.schema import ON_ONE_LINE, field_texts, plain, record_in, section_text
from shared.config.sections import Config


def effective_yaml(config: Config) -> str:
    """Return the text of a file that loads as `config`, with absolute paths.

    It holds **secrets in clear**: write it with mode 0600.
    """
    head = "# The effective settings of this fleet, written by `skep up` at each start. Holds secrets.\n"
    return head + yaml.safe_dump(_revealed(config), sort_keys=False, allow_unicode=True)


def _revealed(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        shown = {name: getattr(value, name) for name in keys_of(type(value))}
        return {name: _revealed(each) for name, each in shown.items()}
    if isinstance(value, tuple):
        return [_revealed(each) for each in value]
    if isinstance(value, Secret):
        return value.reveal()
    return str(value) if isinstance(value, Path) else value


def sample_yaml(head: str, active: Mapping[str, Any]) -> str:
    """Return a commented file in which the keys of `active` are set and every other key is a comment with its default.

    A "#" without a space behind it precedes a setting; removing it sets the key.

    head: the comment on top.
    active: YAML values by key path ("signing.key_file").
    """
    lines = [*_comment(head, 0)]
    for name, hint in keys_of(Config).items():
        lines.append("")
        record = record_in(hint)
        if record is None:
            lines.extend(_key(Config, name, name, 0, active, text=field_texts(Config)[name]))
        else:
            lines.extend(_section(record, name, name, 0, active))
    return "\n".join(lines) + "\n"


def _section(record: type, name: str, path: str, indent: int, active: Mapping[str, Any]) -> Iterator[str]:
    yield from _comment(section_text(record), indent)
    mark = "" if any(key.startswith(f"{path}.") for key in active) else "#"
    yield f"{' ' * indent}{mark}{name}:"
    texts = field_texts(record)
    for inner, hint in keys_of(record).items():
        default = default_of(record, inner)
        nested = record_in(hint)
        if nested is not None and dataclasses.is_dataclass(default) and record not in ON_ONE_LINE:
            yield from _section(nested, inner, f"{path}.{inner}", indent + 2, active)
        else:
            yield from _key(record, inner, f"{path}.{inner}", indent + 2, active, text=texts[inner])


def _key(record: type, name: str, path: str, indent: int, active: Mapping[str, Any], *, text: str) -> Iterator[str]:
    yield from _comment(text, indent)
    hint = keys_of(record)[name]
    names = (name, f"{name}_file") if is_secret(hint) else (name,)
    base = path.removesuffix(name)
    chosen = next((each for each in names if base + each in active), None)
    pad = " " * indent
    if chosen is not None:
        yield f"{pad}{chosen}: {_flow(active[base + chosen])}"
    elif is_secret(hint):
        yield f"{pad}#{name}_file: secrets/{path.replace('.', '_')}"
    else:
        yield f"{pad}#{name}: {_flow(plain(default_of(record, name)))}"


def _comment(text: str, indent: int) -> list[str]:
    pad = " " * indent + "# "
    return [
        line
        for paragraph in text.splitlines()
        for line in (textwrap.wrap(paragraph, 108, initial_indent=pad, subsequent_indent=pad) or [pad.rstrip()])
    ]


def _flow(value: Any) -> str:
    """Return a value on one line. JSON is YAML, and adds the quotes that are needed."""
    if isinstance(value, str) and value and value.replace("_", "a").replace("-", "a").isalpha():
        return value
    return json.dumps(value, ensure_ascii=False)
