"""Checks of the stream registry at each start: every part that others are made from is there.

The channel and the label in metrics come from the name, so they cannot be missing.
"""

import re
from collections.abc import Iterable
from dataclasses import fields

import msgspec

from replication.streams import NOT_IN_TOKENS, STREAMS, Kind, Stream
from shared.config.sections import Fleet
from shared.storage.engine.schema_version import migrations
from shared.storage.fleet.leases import FINAL_POSITIONS

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WORKER_TYPES = frozenset(each.name for each in fields(Fleet))


def check_registry(streams: Iterable[Stream] = STREAMS.values()) -> None:
    """Raise ValueError with a list of all mistakes in the registry."""
    known = list(streams)
    mistakes = [f"{stream.name}: {mistake}" for stream in known for mistake in _mistakes(stream)]
    letters = [stream.token_letter for stream in known if stream.token_letter != NOT_IN_TOKENS]
    if len(set(letters)) != len(letters):
        mistakes.append("two streams share a token letter")
    if len({stream.name for stream in known}) != len(known):
        mistakes.append("two streams share a name")
    if mistakes:
        raise ValueError("stream registry: " + "; ".join(mistakes))


def check_readers(worker_type: str, followed: Iterable[str]) -> None:
    """Raise ValueError when a worker type follows streams that it is not a reader of."""
    unlisted = sorted(name for name in followed if worker_type not in STREAMS[name].readers)
    if unlisted:
        raise ValueError(f"stream registry: {worker_type} is not a reader of {', '.join(unlisted)}")


def _mistakes(stream: Stream) -> Iterable[str]:
    if not _NAME.fullmatch(stream.name):
        yield "the name does not fit into the name of a sequence and a channel"
    for what, types in (("writes", stream.writers), ("reads", stream.readers)):
        if not types:
            yield f"no worker {what} it"
        if unknown := sorted(set(types) - _WORKER_TYPES):
            yield f"there is no worker {', '.join(unknown)}"
    columns = _fields(stream.row)
    if not {"position", "writer"} <= columns:
        yield "the rows have no writer and position"
    if stream.key not in columns:
        yield "no key that decides the slot and the order of its rows"
    if stream.token_letter != NOT_IN_TOKENS and not (stream.token_letter.isascii() and stream.token_letter.isalpha()):
        yield "neither a letter in tokens nor NOT_IN_TOKENS"
    if len(stream.token_letter) > 1:
        yield "more than one letter in tokens"
    yield from _stored_mistakes(stream)


def _stored_mistakes(stream: Stream) -> Iterable[str]:
    """Yield mistakes about rows in Postgres. An ephemeral stream has none of these parts."""
    stored = stream.kind is not Kind.EPHEMERAL
    has = {
        "catch-up query": bool(stream.catch_up),
        "sequence in a migration": any(_creates(migration.sql, stream.sequence) for migration in migrations()),
        "final position (FINAL_POSITIONS)": stream.name in FINAL_POSITIONS,
    }
    for part, there in has.items():
        if stored and not there:
            yield f"no {part}, but its rows are in Postgres"
        elif there and not stored:
            yield f"a {part}, but it is ephemeral"
    if stream.retention_s is not None and stream.kind is not Kind.LOG:
        yield "a retention, but it is not a log"


def _creates(sql: str, sequence: str) -> bool:
    return re.search(rf"CREATE SEQUENCE {sequence} CACHE 1;", sql) is not None


def _fields(row: type[object]) -> set[str]:
    if not issubclass(row, msgspec.Struct):
        return set()
    return {field.name for field in msgspec.structs.fields(row)}
