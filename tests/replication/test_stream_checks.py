"""A stream without one of its parts keeps every process from starting."""

from dataclasses import replace
from typing import Any

import asyncpg
import msgspec
import pytest

from replication.streams import ACCOUNT_DATA, EVENTS, RECEIPTS, STREAMS, TOKEN_LETTERS, TYPING, Kind, Stream
from replication.streams import checks as stream_checks
from replication.streams.checks import check_readers, check_registry
from shared.core.identifiers import RoomId
from shared.storage.fleet.leases import FINAL_POSITIONS
from tests.fix_servers import TestDatabase


class _NoWriter(msgspec.Struct):
    position: int
    room_id: RoomId


def test_registry_is_complete() -> None:
    check_registry()
    assert set(TOKEN_LETTERS) <= set(STREAMS)
    assert "sessions" not in TOKEN_LETTERS


@pytest.mark.parametrize(
    ("stream", "omitted", "complaint"),
    [
        (EVENTS, {"name": "no name"}, "the name"),
        (EVENTS, {"name": "unknown"}, "no sequence in a migration"),
        (EVENTS, {"name": "unknown"}, "no final position"),
        (EVENTS, {"writers": ()}, "no worker writes it"),
        (EVENTS, {"writers": ("event_persistor",)}, "no worker event_persistor"),
        (EVENTS, {"readers": ()}, "no worker reads it"),
        (EVENTS, {"readers": ("sync",)}, "no worker sync"),
        (EVENTS, {"row": dict}, "no writer and position"),
        (EVENTS, {"row": _NoWriter}, "no writer and position"),
        (EVENTS, {"key": ""}, "no key"),
        (RECEIPTS, {"key": "slot"}, "no key"),
        (EVENTS, {"token_letter": ""}, "neither a letter in tokens"),
        (EVENTS, {"token_letter": "ee"}, "more than one letter"),
        (ACCOUNT_DATA, {"token_letter": "e"}, "share a token letter"),
        (EVENTS, {"catch_up": ""}, "no catch-up query"),
        (RECEIPTS, {"retention_s": 1.0}, "not a log"),
        (TYPING, {"catch_up": "SELECT 1"}, "ephemeral"),
        (TYPING, {"kind": Kind.STATE}, "no final position"),
        (EVENTS, {"kind": Kind.EPHEMERAL}, "a sequence in a migration, but it is ephemeral"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_check_names_each_missing_part(stream: Stream, omitted: dict[str, Any], complaint: str) -> None:
    others = [each for each in STREAMS.values() if each is not stream]
    with pytest.raises(ValueError, match="stream registry: ") as caught:
        check_registry([*others, replace(stream, **omitted)])
    assert complaint in str(caught.value)
    with pytest.raises(ValueError, match="share a name"):
        check_registry([*STREAMS.values(), stream])


def test_worker_follows_only_streams_it_reads() -> None:
    check_readers("synchrotron", ["events", "sessions", "typing"])
    with pytest.raises(ValueError, match="media is not a reader of events, typing"):
        check_readers("media", ["typing", "events", "sessions"])


def test_check_demands_final_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {name: sql for name, sql in FINAL_POSITIONS.items() if name != "receipts"}
    monkeypatch.setattr(stream_checks, "FINAL_POSITIONS", without)
    with pytest.raises(ValueError, match="receipts: no final position"):
        check_registry()


async def test_catch_up_queries_return_the_fields_of_rows(postgres: TestDatabase) -> None:
    conn = await asyncpg.connect(postgres.dsn)
    for stream in STREAMS.values():
        if stream.kind is not Kind.EPHEMERAL:
            fields = msgspec.structs.fields(stream.row)
            found = {each.name for each in (await conn.prepare(stream.catch_up)).get_attributes()}
            assert {field.name for field in fields if field.required} <= found, stream.name
            assert found <= {field.name for field in fields}, stream.name
    await conn.close()
