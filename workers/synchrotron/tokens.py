"""Tokens of /sync here: the place of this process, and whether it has come as far as a client's token."""

from collections.abc import Mapping

from replication.driver import Follower
from replication.streams import (
    ACCOUNT_DATA,
    DEVICE_LISTS,
    EVENTS,
    ONE_TIME_KEYS,
    PRESENCE,
    PUSH_RULES,
    RECEIPTS,
    THREAD_SUBSCRIPTIONS,
    TO_DEVICE,
    TOKEN_LETTERS,
    TYPING,
    Kind,
    Stream,
)
from shared.core.errors import Unavailable, invalid_param
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector
from shared.runtime.clock import Clock
from shared.storage.read_source import Source
from shared.storage.read_stream_ends import get_stream_ends
from shared.storage.read_user_ends import get_user_ends

FOLLOWED = (
    EVENTS, RECEIPTS, ACCOUNT_DATA, PUSH_RULES, TO_DEVICE, DEVICE_LISTS, ONE_TIME_KEYS, THREAD_SUBSCRIPTIONS, TYPING,
    PRESENCE,
)  # fmt: skip
_STORED = tuple(stream.name for stream in FOLLOWED if stream.kind is not Kind.EPHEMERAL)
_BEHIND_LIMIT_S = 5.0
_MAX_PARSED = 200


def format_sync_token(token: StreamToken) -> str:
    return format_token(token, TOKEN_LETTERS)


class Tokens:
    def __init__(self, follower: Follower, reads: Source, clock: Clock) -> None:
        self._follower = follower
        self._reads = reads
        self._clock = clock
        #: All who were told of an event come back with the same token.
        self._parsed: dict[str, StreamToken] = {}

    def now(self) -> StreamToken:
        """Return what this process has applied."""
        return StreamToken({stream.name: self._follower.vector(stream) for stream in FOLLOWED})

    async def parse(self, text: str) -> StreamToken:
        """Return the parsed token. Raises M_INVALID_PARAM for a malformed one, or one from the future."""
        token = self._parsed.get(text)
        if token is None:
            token = parse_token(text, TOKEN_LETTERS)
            if len(self._parsed) >= _MAX_PARSED:
                self._parsed.pop(next(iter(self._parsed)))
            self._parsed[text] = token
        # Only what is above all that we have seen can be from the future; then Postgres decides, at once.
        if any(self._beyond(token.vector(stream.name), stream) for stream in FOLLOWED):
            await self._refuse_future(token)
        return token

    async def reach(self, text: str) -> StreamToken:
        """Return the parsed token once this process has applied everything behind it.

        Raises what `parse` does, and Unavailable when we lag for too long.
        """
        token = await self.parse(text)
        await self._wait_for({stream.name: token.vector(stream.name) for stream in FOLLOWED})
        return token

    async def reach_present(self, user_id: str) -> None:
        """Wait until all that Postgres has now for the user was applied: an answer without a token then tells it.

        Raises Unavailable when we lag for too long.
        """
        ends = await get_user_ends(self._reads, user_id)
        await self._wait_for({stream: Vector(max(found), 0, found) for stream, found in ends.items()})

    async def _wait_for(self, wanted: Mapping[str, Vector]) -> None:
        # One limit for all: a client must not wait once for each stream.
        deadline = self._clock.monotonic_s() + _BEHIND_LIMIT_S
        for stream in FOLLOWED:
            vector = wanted.get(stream.name)
            if vector is None or self._follower.covers(stream, vector):
                continue
            if not await self._follower.wait_for(stream, vector, deadline - self._clock.monotonic_s()):
                raise Unavailable("This process is behind what was asked for")

    def _beyond(self, wanted: Vector, stream: Stream) -> bool:
        own = self._follower.vector(stream)
        return wanted.known > own.known or (stream.kind is not Kind.EPHEMERAL and wanted.greatest > own.greatest)

    async def _refuse_future(self, token: StreamToken) -> None:
        ends = await get_stream_ends(self._reads, _STORED)
        for stream in FOLLOWED:
            vector = token.vector(stream.name)
            if vector.known > ends.lease or vector.greatest > ends.positions.get(stream.name, vector.greatest):
                raise invalid_param("The token is from the future")
