"""Load the configuration: from a file and the environment to a checked `Config`, or to a list of every problem."""

import dataclasses
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.config.addresses import with_url_taken_apart
from shared.config.problems import ConfigurationError, Problem
from shared.config.reading import Reading
from shared.config.sections import Config


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read the file and the secrets that it names.

    environment: variables that override secrets (`SKEP_DATABASE_PASSWORD` ...); None: those of the process.
    Raises ConfigurationError with all problems: unknown keys, wrong types, files that cannot be read ...
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigurationError(path, (Problem("the file", "a readable YAML file", found),)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(path, (Problem("the file", "text in UTF-8", "other bytes"),)) from error
    return read_config(text, path, os.environ if environment is None else environment)


def read_config(text: str, path: Path, environment: Mapping[str, str]) -> Config:
    """As `load_config`, for a text. path: named in errors; relative paths count from its directory."""
    try:
        loader = _Loader(text)
        raw = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-02-30
        raise ConfigurationError(path, (Problem("the file", "valid YAML", _one_line(error)),)) from error
    reading = Reading(path.resolve().parent, environment, list(loader.problems))
    config = reading.section(Config, raw, "")
    if reading.problems:
        raise ConfigurationError(path, tuple(reading.problems))
    assert isinstance(config, Config)
    return dataclasses.replace(config, redis=with_url_taken_apart(config.redis))


class _Loader(yaml.SafeLoader):
    """A SafeLoader that notes each key given twice. PyYAML would take the last one without a word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                line = key_node.start_mark.line + 1
                self.problems.append(Problem("the file", "each key once", f'"{key}" again in line {line}'))
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
