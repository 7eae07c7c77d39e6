"""The wire format of replication, whole and versioned: nothing else knows it.

MessagePack arrays. Every process publishes frames on the channels of the streams that it writes, and a tick on one
common channel every second; readers of ephemeral streams publish questions. Readers ignore fields that they do not
know; a message of another major version is ignored whole (the reader then sees silence or a gap, and reads Postgres).
"""

from typing import Any, TypeVar

import msgspec

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024
TICKS = "ticks"  # channel of ticks
CONTROL = "control"  # channel of notices: read `slots` again
QUESTIONS = "questions"  # channel on which readers of ephemeral streams ask their writers


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One committed batch on one channel.

    previous: what this writer last put on this channel (0: nothing yet); current: the last position in this frame.
    rows: encoded rows of the stream, position ascending. over: of ephemeral streams, in the last frame of an answer:
    what this writer told at or below this position, and has not told again since, is over.
    """

    version: int
    stream: str
    writer: int
    channel: str
    previous: int
    current: int
    rows: list[msgspec.Raw]
    over: int | None = None


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """complete_up_to: nothing of this writer at or below this will still appear; last: by channel."""

    complete_up_to: int
    last: dict[str, int]


class Tick(msgspec.Struct, array_like=True, frozen=True):
    """What a writer says of itself every second; seen: the greatest position that it saw of each stream."""

    version: int
    writer: int
    progress: dict[str, Progress]
    seen: dict[str, int]


class Notice(msgspec.Struct, array_like=True, frozen=True):
    """Something in Postgres changed that processes cache. topic: "slots" or "leases"."""

    version: int
    topic: str


class Question(msgspec.Struct, array_like=True, frozen=True):
    """A reader missed something of an ephemeral stream: may this writer tell everybody all that is valid now."""

    version: int
    stream: str
    writer: int


M = TypeVar("M", Frame, Tick, Notice, Question)

_encoder = msgspec.msgpack.Encoder()
_frame = msgspec.msgpack.Decoder(Frame)
_tick = msgspec.msgpack.Decoder(Tick)
_notice = msgspec.msgpack.Decoder(Notice)
_question = msgspec.msgpack.Decoder(Question)


class WireError(ValueError):
    """A message that this version cannot read: ignored, and counted."""


def encode_row(row: Any) -> bytes:
    return _encoder.encode(row)


def encode_frames(
    stream: str, writer: int, channel: str, previous: int, rows: list[tuple[int, bytes]], over: int | None = None
) -> list[bytes]:
    """Return the frames of one batch: as few as MAX_FRAME_BYTES allows, chained by previous and current.

    rows: (position, encoded row), position ascending. over: see Frame; there is a frame then without rows too.
    """
    frames: list[bytes] = []
    part: list[msgspec.Raw] = []
    size = 0
    last = previous
    for position, encoded in rows:
        if part and size + len(encoded) > MAX_FRAME_BYTES:
            frames.append(_encoder.encode(Frame(VERSION, stream, writer, channel, previous, last, part)))
            previous, part, size = last, [], 0
        part.append(msgspec.Raw(encoded))
        size += len(encoded)
        last = position
    if part or over is not None:
        frames.append(_encoder.encode(Frame(VERSION, stream, writer, channel, previous, last, part, over)))
    return frames


def decode_frame(message: bytes) -> Frame:
    return _checked(_frame, message)


def encode_tick(tick: Tick) -> bytes:
    return _encoder.encode(tick)


def decode_tick(message: bytes) -> Tick:
    return _checked(_tick, message)


def encode_notice(topic: str) -> bytes:
    return _encoder.encode(Notice(VERSION, topic))


def decode_notice(message: bytes) -> Notice:
    return _checked(_notice, message)


def encode_question(stream: str, writer: int) -> bytes:
    return _encoder.encode(Question(VERSION, stream, writer))


def decode_question(message: bytes) -> Question:
    return _checked(_question, message)


def row_decoder(row_type: type[Any]) -> "msgspec.msgpack.Decoder[Any]":
    return msgspec.msgpack.Decoder(row_type)


def _checked(decoder: "msgspec.msgpack.Decoder[M]", message: bytes) -> M:
    try:
        value = decoder.decode(message)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise WireError(str(error)) from error
    if value.version != VERSION:
        raise WireError(f"version {value.version}, not {VERSION}")
    return value
