"""A response of /sync as bytes: whole if it is small, else in pieces that are made while the client takes them.

At most one piece of a long response is in memory. Spec: client-server API, GET /sync.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from shared.core.identifiers import RoomId

#: The order in which rooms are sent.
KINDS = ("join", "invite", "knock", "leave")
#: Responses up to this size are sent as one body.
WHOLE_BYTES = 262_144
#: The least size of a piece.
_PIECE_BYTES = 65_536
_NO_ROOMS: Mapping[str, Any] = {kind: {} for kind in KINDS}


class Section(NamedTuple):
    """A room's part of a response."""

    kind: str
    room_id: RoomId
    #: The section's JSON in parts, which other responses may share.
    parts: Sequence[bytes]


async def body_pieces(
    head: Mapping[str, Any], first: Section | None, rest: AsyncIterator[Section]
) -> AsyncGenerator[bytes, None]:
    """Yield the response: the head, then the rooms (first and rest), which come in the order of KINDS."""
    gathered = [orjson.dumps(head)[:-1], b',"rooms":{"join":{']
    size = sum(map(len, gathered))
    kind, joint = 0, b""
    section = first
    while section is not None:
        while KINDS[kind] != section.kind:
            kind, joint = kind + 1, b""
            gathered.append(b'},"%b":{' % KINDS[kind].encode())
        gathered += (joint, orjson.dumps(section.room_id), b":")
        joint = b","
        for part in section.parts:
            gathered.append(part)
            size += len(part)
            if size >= _PIECE_BYTES:
                yield b"".join(gathered)
                gathered, size = [], 0
        section = await anext(rest, None)
    gathered += [b'},"%b":{' % each.encode() for each in KINDS[kind + 1 :]]
    gathered.append(b"}}}")
    yield b"".join(gathered)


def body_without_rooms(head: Mapping[str, Any]) -> bytes:
    """Return a response without rooms."""
    return orjson.dumps({**head, "rooms": _NO_ROOMS})


async def whole_or_pieces(pieces: AsyncGenerator[bytes, None]) -> bytes | AsyncGenerator[bytes, None]:
    """Return a short response whole, and a longer one as its pieces."""
    gathered: list[bytes] = []
    size = 0
    async for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            return _resumed(gathered, pieces)
    return gathered[0] if len(gathered) == 1 else b"".join(gathered)


async def _resumed(gathered: list[bytes], pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        first = b"".join(gathered)
        gathered.clear()
        yield first
        del first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()
