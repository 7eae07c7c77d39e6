"""Tokens of /sync: one position vector per stream, such as "s1_e12.3400.7-3410_a12.88".

The stream registry (`replication/streams/registry.py`) provides the table of stream names and letters. A new stream
adds one part to the token. Tokens from before it mean that nothing of that stream has been seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.core.errors import invalid_param
from shared.core.sync_tokens.vector import Vector, format_vector, parse_vector

_PREFIX = "s1"
_MAX_LENGTH = 16_384
START = Vector()


@dataclass(frozen=True, slots=True)
class StreamToken:
    """The position of a reader in all streams. vectors: by stream name; a stream that is absent is at its start."""

    vectors: Mapping[str, Vector]

    def vector(self, stream: str) -> Vector:
        return self.vectors.get(stream, START)


def format_token(token: StreamToken, letters: Mapping[str, str]) -> str:
    """Return the token as text. letters: stream -> its letter; streams without one are left out."""
    parts = [letter + format_vector(token.vectors[name]) for name, letter in letters.items() if name in token.vectors]
    return "_".join((_PREFIX, *parts))


def parse_token(text: str, letters: Mapping[str, str]) -> StreamToken:
    """Return the token in a text of `format_token`. Unknown letters, written by a newer release, are skipped.

    Raises MatrixError M_INVALID_PARAM.
    """
    prefix, *parts = text.split("_")
    if prefix != _PREFIX or len(text) > _MAX_LENGTH:
        raise invalid_param("The token is malformed")
    names = {letter: name for name, letter in letters.items()}
    vectors = {}
    for part in parts:
        name = names.get(part[:1])
        if name is not None:
            vectors[name] = parse_vector(part[1:])
    return StreamToken(vectors)
