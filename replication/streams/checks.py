"""What every stream must have, since so much is made from its one entry in the registry. Checked at each start.

From the name come the channel and the metrics' label, so these cannot be left out.
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
    """Raise ValueError that lists every stream which lacks a part that others are made from."""
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
    """Raise ValueError when a process follows what the registry does not say that its type reads."""
    strange = sorted(name for name in followed if worker_type not in STREAMS[name].readers)
    if strange:
        raise ValueError(f"stream registry: {worker_type} is no reader of {', '.join(strange)}")


def _mistakes(stream: Stream) -> Iterable[str]:
    if not _NAME.fullmatch(stream.name):
        yield "its name does not fit into a sequence's and a channel's"
    for what, types in (("writes", stream.writers), ("reads", stream.readers)):
        if not types:
            yield f"nobody {what} it"
        if unknown := sorted(set(types) - _WORKER_TYPES):
            yield f"there is no worker {', '.join(unknown)}"
    columns = _fields(stream.row)
    if not {"position", "writer"} <= columns:
        yield "rows without writer and position"
    if stream.key not in columns:
        yield "no key that says which slot its rows belong to, and whose order holds"
    if stream.token_letter != NOT_IN_TOKENS and not (stream.token_letter.isascii() and stream.token_letter.isalpha()):
        yield "no letter in tokens, nor NOT_IN_TOKENS"
    if len(stream.token_letter) > 1:
        yield "more than a letter in tokens"
    yield from _stored_mistakes(stream)


def _stored_mistakes(stream: Stream) -> Iterable[str]:
    """What belongs to rows in Postgres; an ephemeral stream has nothing of it."""
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
        yield "a retention, but it is no log"


def _creates(sql: str, sequence: str) -> bool:
    return re.search(rf"CREATE SEQUENCE {sequence} CACHE 1;", sql) is not None


def _fields(row: type[object]) -> set[str]:
    if not issubclass(row, msgspec.Struct):
        return set()
    return {field.name for field in msgspec.structs.fields(row)}
