"""Build records from YAML values, driven by the types of the records' fields, and collect every problem.

    str, int, float, bool, Path, Literal, Secret     a scalar; `Annotated` limits are checked
    X | None                                         null too
    tuple[X, ...]                                    a list
    a dataclass                                      a mapping with the record's fields as keys

A field of type Secret named `password` can be given as `password`, as `password_file` (a file that holds it),
or as an environment variable made of its path, such as SKEP_DATABASE_PASSWORD, which wins.
"""

import contextlib
import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from shared.config.kinds import Check, Form, Range, ReadableFile, Secret
from shared.config.problems import Problem, describe
from shared.config.relations import RELATIONS
from shared.config.sections import REMOVED_KEYS

#: The place of a value that could not be read. Its problem is recorded, and the configuration is never built.
MISSING = object()

WORDS: Mapping[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Secret: "text",
}


def environment_name(key: str) -> str:
    """Return the variable that overrides a secret: "redis.password" -> "SKEP_REDIS_PASSWORD"."""
    return "SKEP_" + key.upper().replace(".", "_")


def is_secret(hint: Any) -> bool:
    """Tell whether a field's type is Secret, with or without limits and null."""
    if get_origin(hint) is Annotated:
        return is_secret(get_args(hint)[0])
    return hint is Secret or (get_origin(hint) in (Union, types.UnionType) and any(map(is_secret, get_args(hint))))


def keys_of(record: type) -> dict[str, Any]:
    """Return the keys of a section and their types, in the order of its fields."""
    hints = get_type_hints(record, include_extras=True)
    return {each.name: hints[each.name] for each in dataclasses.fields(record)}


@dataclass(slots=True)
class Reading:
    """One pass over a file.

    directory: the base of relative paths.
    environment: variables by name.
    """

    directory: Path
    environment: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)

    def section(self, record: type, raw: Any, key: str) -> Any:
        """Return the record that the mapping `raw` describes, or MISSING after recording what is wrong."""
        if raw is None:
            raw = {}  # an emptied section: all its keys are commented out
        if not isinstance(raw, dict):
            return self._refuse(key or "the file", "a mapping", describe(raw))
        before = len(self.problems)
        hints = keys_of(record)
        self._refuse_unknown(raw, hints, key)
        values = {name: self._field(record, name, hint, raw, _join(key, name)) for name, hint in hints.items()}
        # Built also where values are missing, so that relations between the others are checked in the same round.
        built = record(**values)
        for relation in RELATIONS.get(record, ()):
            problem = None if any(values[name] is MISSING for name in relation.keys) else relation.check(built)
            if problem is not None:
                self._refuse(_join(key, problem.key), problem.expected, problem.found)
        return built if len(self.problems) == before else MISSING

    def _field(self, record: type, name: str, hint: Any, raw: dict[Any, Any], key: str) -> Any:
        """Return a field's value or its default; MISSING after recording what is wrong."""
        if is_secret(hint):
            return self._secret(record, name, hint, raw, key)
        if name in raw:
            return self.value(hint, raw[name], key)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.section(hint, {}, key)  # reports required keys, and finds secrets in the environment
        default = default_of(record, name)
        if default is dataclasses.MISSING:
            return self._refuse(key, self.expected(hint), "nothing: the key is required")
        return default

    def value(self, hint: Any, raw: Any, key: str) -> Any:
        """Return the value of type `hint` that `raw` describes, or MISSING after recording what is wrong."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            if raw is None:
                return None
            return self.value(next(each for each in arguments if each is not type(None)), raw, key)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self.section(hint, raw, key)
        if origin is tuple:
            return self._list(arguments[0], raw, key)
        if origin is Annotated:
            value = self._scalar(arguments[0], raw, key, shown=hint)
            return MISSING if value is MISSING else self._limited(hint, arguments[1:], value, key)
        if origin is Literal:
            if raw not in arguments or isinstance(raw, bool):
                return self._refuse(key, self.expected(hint), describe(raw))
            return raw
        return self._scalar(hint, raw, key, shown=hint)

    def expected(self, hint: Any) -> str:
        """Say what a type expects, in words."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            rest = next(each for each in arguments if each is not type(None))
            return f"{self.expected(rest)} or null"
        if dataclasses.is_dataclass(hint):
            return "a mapping with " + ", ".join(each.name for each in dataclasses.fields(hint))
        if origin is tuple:
            return f"a list, each {self.expected(arguments[0])}"
        if origin is Literal:
            return "one of " + ", ".join(map(str, arguments))
        if origin is Annotated:
            words = self.expected(arguments[0])
            for limit in arguments[1:]:
                match limit:
                    case Range():
                        words = f"{words} {limit.words()}"
                    case Form() | Check():
                        words = limit.words
                    case ReadableFile():
                        words = "a file that can be read"
            return words
        return WORDS[hint]

    def _scalar(self, hint: Any, raw: Any, key: str, shown: Any) -> Any:
        """Return a scalar of type `hint`. shown: the type with its limits, for the message."""
        number = isinstance(raw, int | float) and not isinstance(raw, bool)
        if hint is float and number:
            return float(raw)
        if hint is int and number and isinstance(raw, int):
            return raw
        if hint is bool and isinstance(raw, bool):
            return raw
        if hint is Secret and isinstance(raw, str):
            return Secret(raw)
        if hint is str and isinstance(raw, str):
            return raw
        if hint is Path and isinstance(raw, str) and raw and "\0" not in raw:
            return self._path(raw)
        hint_for_text = "; put it in quotes" if hint in (str, Secret) and number else ""
        # What was found is not shown for a secret: the message goes to logs and terminals.
        found = "something that is no text" if hint is Secret else describe(raw)
        return self._refuse(key, self.expected(shown), found + hint_for_text)

    def _path(self, raw: str) -> Path:
        path = Path(raw)
        with contextlib.suppress(RuntimeError):  # "~name" of a user that this host does not have
            path = path.expanduser()
        return self.directory / path

    def _list(self, hint: Any, raw: Any, key: str) -> Any:
        if not isinstance(raw, list):
            return self._refuse(key, f"a list, each {self.expected(hint)}", describe(raw))
        values = tuple(self.value(hint, each, f"{key}[{index}]") for index, each in enumerate(raw))
        return MISSING if MISSING in values else values

    def _limited(self, hint: Any, limits: tuple[Any, ...], value: Any, key: str, where: str = "") -> Any:
        """Return the value if it is within its limits. where: of a secret, such as "in FILE", for the message."""
        for limit in limits:
            match limit:
                case Range() | Form() if not limit.holds(value):
                    return self._refuse(key, self.expected(hint), describe(value))
                case Check():
                    fault = limit.fault(value.reveal() if isinstance(value, Secret) else value)
                    if fault is not None:
                        found = f"{fault}{where}" if isinstance(value, Secret) else describe(value)
                        return self._refuse(key, limit.words, found)
                case ReadableFile():
                    try:
                        with value.open("rb") as file:
                            file.read(1)  # a directory can be opened, but not read
                    except OSError as error:
                        return self._refuse(key, self.expected(hint), f"{value}: {error.strerror}")
        return value

    def _secret(self, record: type, name: str, hint: Any, raw: dict[Any, Any], key: str) -> Any:
        bare = next(each for each in get_args(hint) if is_secret(each)) if _is_union(hint) else hint
        limits = get_args(bare)[1:] if get_origin(bare) is Annotated else ()
        if raw.get(name) is not None and raw.get(f"{name}_file") is not None:
            return self._refuse(key, f"either {name} or {name}_file", "both")
        variable = environment_name(key)
        if self.environment.get(variable):
            return self._limited(bare, limits, Secret(self.environment[variable]), key, f" in ${variable}")
        if raw.get(f"{name}_file") is not None:
            found = self._secret_file(raw[f"{name}_file"], f"{key}_file")
            in_file = f" in {raw[f'{name}_file']}"
            return found if found is MISSING else self._limited(bare, limits, found, f"{key}_file", in_file)
        if raw.get(name) is not None:
            return self.value(hint, raw[name], key)
        default = default_of(record, name)
        if default is dataclasses.MISSING:
            found = f"nothing: set {name}, {name}_file or the environment variable {variable}"
            return self._refuse(key, "a secret text", found)
        return default

    def _secret_file(self, raw: Any, key: str) -> Any:
        if not isinstance(raw, str) or not raw or "\0" in raw:
            return self._refuse(key, "the path of a file that holds the secret", describe(raw))
        path = self._path(raw)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            return self._refuse(key, "a file that can be read", f"{path}: {error.strerror}")
        except UnicodeDecodeError:
            return self._refuse(key, "a text file in UTF-8", f"{path}: other bytes")
        if not text.strip():
            return self._refuse(key, "a file that holds the secret", f"{path}: empty")
        return Secret(text.rstrip("\r\n"))

    def _refuse_unknown(self, raw: dict[Any, Any], hints: Mapping[str, Any], key: str) -> None:
        known = [*hints, *(f"{name}_file" for name, hint in hints.items() if is_secret(hint))]
        for name in raw:
            if name in known:
                continue
            path = _join(key, str(name))
            if path in REMOVED_KEYS:
                self._refuse(path, "no such key", f"one of an earlier release: {REMOVED_KEYS[path]}")
                continue
            near = difflib.get_close_matches(str(name), known, n=1)
            advice = f'; did you mean "{near[0]}"?' if near else ""
            self._refuse(path, f"one of the keys {', '.join(known)}", f"an unknown key{advice}")

    def _refuse(self, key: str, expected: str, found: str) -> Any:
        self.problems.append(Problem(key, expected, found))
        return MISSING


def default_of(record: type, name: str) -> Any:
    """Return a field's default, or dataclasses.MISSING when the key is required."""
    return next(each.default for each in dataclasses.fields(record) if each.name == name)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _join(key: str, name: str) -> str:
    """Join the path of a section with the name of a key; either may be empty."""
    return f"{key}.{name}" if key and name else key or name
