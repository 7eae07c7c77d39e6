"""The one way into the configuration: file and environment in; a checked `Config` or every problem out."""

import base64
import binascii
import dataclasses
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.config.addresses import host_and_port, with_url_taken_apart
from shared.config.problems import ConfigurationError, Problem
from shared.config.reading import MISSING, Reading
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
        raw = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that refuses doubled keys
    except yaml.YAMLError as error:
        raise ConfigurationError(path, (Problem("the file", "valid YAML", _one_line(error)),)) from error
    directory = path.resolve().parent
    reading = Reading(directory, environment)
    config = reading.section(Config, raw, "")
    if config is MISSING:
        raise ConfigurationError(path, tuple(reading.problems))
    problems = list(_contradictions(config))
    if problems:
        raise ConfigurationError(path, tuple(problems))
    assert isinstance(config, Config)
    return dataclasses.replace(
        config,
        directory=directory,
        redis=with_url_taken_apart(config.redis),
        media=dataclasses.replace(config.media, store_path=directory / config.media.store_path),
    )


def _contradictions(config: Config) -> list[Problem]:
    """Return what each key alone cannot show: keys that do not fit each other, and the inside of secrets."""
    problems: list[Problem] = []
    try:
        with_url_taken_apart(config.redis)
    except ValueError as error:
        problems.append(Problem("redis.url", "redis://[user:password@]host[:port]", f"a text where {error}"))
    for key, hosts, port in (
        ("database.hosts", [h for h in config.database.hosts if not h.startswith("/")], config.database.port),
        ("redis.sentinel.hosts", list(config.redis.sentinel.hosts), 26379),
    ):
        for host in hosts:
            try:
                host_and_port(host, port)
            except ValueError:
                problems.append(Problem(key, "a host name, with or without :port", f'"{host}"'))
    if any(host.startswith("/") for host in config.database.hosts) and len(config.database.hosts) > 1:
        problems.append(Problem("database.hosts", "host names, or one socket directory alone", "both"))
    if config.database.dsn is not None and not config.database.dsn.reveal().startswith(
        ("postgresql://", "postgres://")
    ):
        problems.append(Problem("database.dsn", "postgresql://user:password@host:port/name", "another form"))
    listener = config.listeners.federation
    if listener.private_key_file is not None and listener.certificate_file is None:
        where = "listeners.federation.certificate_file"
        problems.append(Problem(where, "a file that can be read", "nothing, beside a private_key_file"))
    replication = config.replication
    if replication.dead_after_s < 2 * replication.heartbeat_s:
        found = f"{replication.dead_after_s:g}"
        problems.append(Problem("replication.dead_after_s", "at least twice heartbeat_s, in seconds", found))
    if len(config.secrets.internal_secret.reveal()) < 16:
        problems.append(Problem("secrets.internal_secret", "16 characters or more", "fewer"))
    for index, contact in enumerate(config.support.contacts):
        if contact.matrix_id is None and contact.email_address is None:
            where = f"support.contacts[{index}]"
            problems.append(Problem(where, "a matrix_id or an email_address", "neither"))
    problems.extend(_signing_problems(config.signing.key.reveal()))
    return problems


def _signing_problems(text: str) -> list[Problem]:
    expected = "lines such as `ed25519 a_1 <32 bytes, unpadded base64>`"
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for number, words in enumerate(lines, 1):
        if len(words) != 3 or words[0] != "ed25519" or not words[1].replace("_", "a").isalnum():
            return [Problem("signing.key", expected, f"something else in line {number}")]
        try:
            seed = base64.b64decode(words[2] + "=" * (-len(words[2]) % 4), validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != 32:
            return [Problem("signing.key", expected, f"a seed of {len(seed)} bytes in line {number}")]
    return [] if lines else [Problem("signing.key", expected, "an empty text")]


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice: PyYAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
