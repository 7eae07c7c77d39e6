"""The wire format: rows survive encoding, and other versions are refused."""

import msgspec
import pytest

from replication.bus import wire
from shared.core import rows


def test_rows_survive_encoding() -> None:
    row = rows.SessionRow(position=7, writer=3, user_id="@a:b", device_id=None)
    (message,) = wire.encode_frames("sessions", 3, "sessions", 5, [(7, wire.encode_row(row))])
    frame = wire.decode_frame(message)
    assert (frame.previous, frame.current) == (5, 7)
    assert wire.row_decoder(rows.SessionRow).decode(frame.rows[0]) == row


def test_message_of_other_version_is_ignored() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_tick(msgspec.msgpack.encode([99, 1, {}, {}]))
