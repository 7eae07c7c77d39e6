"""The wire format: rows survive encoding, and other versions are refused."""

from typing import NamedTuple

import msgspec
import pytest

from replication.bus import wire
from replication.streams.session import StreamSession, WriterState
from shared.core import rows
from shared.core.identifiers import UserId


class _Row(NamedTuple):
    writer: int
    position: int


def test_rows_survive_encoding() -> None:
    row = rows.SessionRow(position=7, writer=3, user_id=UserId("@a:b"), device_id=None)
    (message,) = wire.encode_frames("sessions", 3, "sessions", 5, [(7, wire.encode_row(row))])
    frame = wire.decode_frame(message)
    assert (frame.previous, frame.current) == (5, 7)
    assert wire.row_decoder(rows.SessionRow).decode(frame.rows[0]) == row


def test_message_of_other_version_is_ignored() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_tick(msgspec.msgpack.encode([99, 1, {}, {}]))


def test_row_that_fits_no_frame_is_a_gap_that_readers_repair() -> None:
    """A row names all members of a state that came as a whole. Frames stay small, and Postgres has the row."""
    small, large = (6, msgspec.msgpack.encode("x")), (7, msgspec.msgpack.encode("x" * wire.MAX_FRAME_BYTES))
    messages = wire.encode_frames("events", 3, "events", 5, [small, large, (8, b"\xc0")])
    assert max(map(len, messages)) < wire.MAX_FRAME_BYTES
    first, empty, last = map(wire.decode_frame, messages)
    assert (first.previous, first.current) == (5, 6)
    assert (empty.previous, empty.current, empty.rows) == (7, 7, [])
    assert (last.previous, last.current) == (7, 8)
    session = StreamSession("events")
    session.learn_writers(3, [WriterState(3, 5, None)])
    assert not session.receive(first, [_Row(3, 6)]).repair
    assert session.receive(empty, []).repair, "the large row is missing"
    assert session.receive(last, [_Row(3, 8)]).repair and session.positions[3] == 6
    assert [row.position for row in session.repaired([_Row(3, 7), _Row(3, 8)]).rows] == [7, 8]
