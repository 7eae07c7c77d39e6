"""An answer of /sync as bytes: whole where it is small; else in pieces, made while its client takes them.

Not more of an answer is in memory than what is gathered for one piece. Spec: client-server API, GET /sync.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

#: In this order, since the rooms come in it.
KINDS = ("join", "invite", "knock", "leave")
#: An answer up to this is sent as one body. Of a longer one a piece is sent as soon as it is as long as that.
WHOLE_BYTES = 262_144
_PIECE_BYTES = 65_536
_NO_ROOMS: Mapping[str, Any] = {kind: {} for kind in KINDS}


class Section(NamedTuple):
    """A room's part of an answer. parts: its JSON, which may be shared with other answers; joined only to be sent."""

    kind: str
    room_id: str
    parts: Sequence[bytes]


async def body_pieces(
    head: Mapping[str, Any], first: Section | None, rest: AsyncIterator[Section]
) -> AsyncGenerator[bytes, None]:
    """Yield the answer. head: all but the rooms; first, rest: the rooms, by kind in the order of KINDS."""
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
    """Return the answer that tells of no room."""
    return orjson.dumps({**head, "rooms": _NO_ROOMS})


async def whole_or_pieces(pieces: AsyncGenerator[bytes, None]) -> bytes | AsyncGenerator[bytes, None]:
    """Return a short answer whole; a longer one as what is to be sent, the pieces that were made already first."""
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
        begun = b"".join(gathered)
        gathered.clear()
        yield begun
        del begun
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()
