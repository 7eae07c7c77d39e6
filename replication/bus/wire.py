"""The wire format of replication. No other module knows it.

Messages are MessagePack arrays. Every process publishes frames on the channels of the streams that it writes, and a
tick on one common channel every second. Readers of ephemeral streams publish requests to repeat them. Readers ignore
unknown fields. They drop messages of another major version: they then see silence or a gap, and read Postgres.
"""

from typing import Any, TypeVar

import msgspec

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024
TICKS = "ticks"  # the channel of ticks
CONTROL = "control"  # the channel of notices
REPEATS = "questions"  # the channel on which readers ask writers to repeat an ephemeral stream


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One committed batch on one channel."""

    version: int
    stream: str
    writer: int
    channel: str
    #: The writer's last position on this channel before this frame, 0 if there is none.
    previous: int
    #: The last position in this frame.
    current: int
    #: Encoded rows of the stream in ascending position.
    rows: list[msgspec.Raw]
    #: In the last frame of a repetition of an ephemeral stream: the writer's values at or below this position that it
    #: has not repeated are over.
    over: int | None = None


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """The progress of a writer in one stream."""

    #: No further row of this writer will appear at or below this position.
    complete_up_to: int
    #: The last position on each channel.
    last: dict[str, int]


class Tick(msgspec.Struct, array_like=True, frozen=True):
    """The progress of a writer, published every second."""

    version: int
    writer: int
    #: By stream.
    progress: dict[str, Progress]
    #: The greatest position of each stream that the writer has seen, of any writer.
    seen: dict[str, int]


class Notice(msgspec.Struct, array_like=True, frozen=True):
    """A change in Postgres of something that processes cache. topic: "slots" or "leases"."""

    version: int
    topic: str


class RepeatRequest(msgspec.Struct, array_like=True, frozen=True):
    """A request of a reader that missed a frame: the writer shall publish all valid values of the stream again."""

    version: int
    stream: str
    writer: int


M = TypeVar("M", Frame, Tick, Notice, RepeatRequest)

_encoder = msgspec.msgpack.Encoder()
_frame = msgspec.msgpack.Decoder(Frame)
_tick = msgspec.msgpack.Decoder(Tick)
_notice = msgspec.msgpack.Decoder(Notice)
_repeat_request = msgspec.msgpack.Decoder(RepeatRequest)


class WireError(ValueError):
    """A message that this version cannot read. It is ignored and counted."""


def encode_row(row: Any) -> bytes:
    return _encoder.encode(row)


def encode_frames(
    stream: str, writer: int, channel: str, previous: int, rows: list[tuple[int, bytes]], over: int | None = None
) -> list[bytes]:
    """Return the frames of one batch, chained by previous and current: as few as MAX_FRAME_BYTES allows.

    rows: (position, encoded row) in ascending position. An empty one stands for a row that is not sent.
    over: see `Frame`. If it is given, there is a frame even without rows.

    A row that is larger than a frame is not sent either. The frame in its place is empty, and follows a position that
    no reader has reached: readers see a gap, and read the row from Postgres. Such a row names the members of a large
    state.
    """
    frames: list[bytes] = []
    part: list[msgspec.Raw] = []
    size = 0
    last = previous

    def close_frame(over: int | None) -> None:
        frame = Frame(
            version=VERSION,
            stream=stream,
            writer=writer,
            channel=channel,
            previous=previous,
            current=last,
            rows=part,
            over=over,
        )
        frames.append(_encoder.encode(frame))

    for position, encoded in rows:
        if not encoded or (len(encoded) > MAX_FRAME_BYTES and over is None):
            if part:
                close_frame(None)
            previous, part, size, last = position, [], 0, position
            close_frame(None)
            continue
        if part and size + len(encoded) > MAX_FRAME_BYTES:
            close_frame(None)
            previous, part, size = last, [], 0
        part.append(msgspec.Raw(encoded))
        size += len(encoded)
        last = position
    if part or over is not None:
        close_frame(over)
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


def encode_repeat_request(stream: str, writer: int) -> bytes:
    return _encoder.encode(RepeatRequest(VERSION, stream, writer))


def decode_repeat_request(message: bytes) -> RepeatRequest:
    return _checked(_repeat_request, message)


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
