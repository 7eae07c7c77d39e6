"""Sync tokens: the stream positions of this process, and waiting until it has reached those of a client's token."""

from collections.abc import Mapping

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
from replication.streams.follower import Follower
from shared.cache.byte_budget import ByteBudgetCache
from shared.cache.sizes import text_size
from shared.core.errors import Unavailable, invalid_param
from shared.core.identifiers import UserId
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.streams.ends import get_stream_ends, get_user_ends

FOLLOWED = (
    EVENTS,
    RECEIPTS,
    ACCOUNT_DATA,
    PUSH_RULES,
    TO_DEVICE,
    DEVICE_LISTS,
    ONE_TIME_KEYS,
    THREAD_SUBSCRIPTIONS,
    TYPING,
    PRESENCE,
)
_STORED = tuple(stream.name for stream in FOLLOWED if stream.kind is not Kind.EPHEMERAL)
_CATCH_UP_LIMIT_S = 5.0
#: Of parsed tokens. Usual ones take 5 KB each, and all recipients of an event share theirs. A forged one may name
#: thousands of writers.
_PARSED_BYTES = 4 << 20
_TOKEN_BYTES = 500
_VECTOR_BYTES = 250
_WRITER_BYTES = 95  # a writer above the base of a vector


def format_sync_token(token: StreamToken) -> str:
    return format_token(token, TOKEN_LETTERS)


class _ParsedToken:
    """A parsed token. Once this process has applied everything up to it, `reached` is True for good."""

    __slots__ = ("reached", "token")

    def __init__(self, token: StreamToken, *, reached: bool) -> None:
        self.token = token
        self.reached = reached


class SyncTokens:
    """The tokens that this process issues and accepts."""

    def __init__(self, follower: Follower, reads: Source, clock: Clock) -> None:
        self._follower = follower
        self._reads = reads
        self._clock = clock
        #: All recipients of an event get the same token and return with it.
        self._parsed: ByteBudgetCache[str, _ParsedToken] = ByteBudgetCache(_PARSED_BYTES)
        self._now = StreamToken({})
        self._now_text = ""

    def now(self) -> StreamToken:
        """Return the token of everything applied here; the same object as long as nothing is added."""
        vectors = {stream.name: self._follower.vector(stream) for stream in FOLLOWED}
        if self._now.vectors != vectors:
            self._now, self._now_text = StreamToken(vectors), ""
        return self._now

    def text(self, token: StreamToken) -> str:
        """Format the token of a response, as `format_sync_token` does."""
        if token is not self._now:
            return format_sync_token(token)
        if not self._now_text:
            self._now_text = format_sync_token(token)
            self._remember(self._now_text, token, reached=True)
        return self._now_text

    async def parse(self, text: str) -> StreamToken:
        """Return the parsed token. Raises M_INVALID_PARAM for a malformed token, or one from the future."""
        return (await self._parse(text)).token

    async def _parse(self, text: str) -> _ParsedToken:
        parsed = self._parsed.get(text)
        if parsed is None:
            parsed = self._remember(text, parse_token(text, TOKEN_LETTERS), reached=False)
        # Only a token beyond everything seen here can be from the future. Postgres decides that at once.
        if not parsed.reached and any(self._is_beyond(parsed.token.vector(stream.name), stream) for stream in FOLLOWED):
            await self._refuse_future(parsed.token)
        return parsed

    def _remember(self, text: str, token: StreamToken, *, reached: bool) -> _ParsedToken:
        parsed = _ParsedToken(token, reached=reached)
        vectors = token.vectors.values()
        size = _TOKEN_BYTES + text_size(text) + _VECTOR_BYTES * len(vectors)
        self._parsed.put(text, parsed, size + _WRITER_BYTES * sum(len(vector.above) for vector in vectors))
        return parsed

    async def reach(self, text: str) -> StreamToken:
        """Return the parsed token once this process has applied everything up to it.

        Raises as `parse` does, and Unavailable when the process does not catch up within five seconds.
        """
        parsed = await self._parse(text)
        if not parsed.reached:
            await self._wait_for({stream.name: parsed.token.vector(stream.name) for stream in FOLLOWED})
            parsed.reached = True
        return parsed.token

    async def reach_present(self, user_id: UserId) -> None:
        """Wait until everything that Postgres now holds for the user is applied here.

        A response to a request without a token then includes it. Raises Unavailable when the process does not catch
        up within five seconds.
        """
        await self._reach_ends(await get_user_ends(self._reads, user_id))

    async def reach_own_data(self, user_id: UserId) -> None:
        """Wait until the user's own data, such as tags and push rules, are applied here. Raises as `reach_present`.

        A response that does not wait for updates then includes what the user set just before.
        """
        await self._reach_ends(await get_user_ends(self._reads, user_id, without_rooms=True))

    async def _reach_ends(self, ends: Mapping[str, Mapping[int, int]]) -> None:
        await self._wait_for({stream: Vector(max(found), 0, dict(found)) for stream, found in ends.items()})

    async def _wait_for(self, wanted: Mapping[str, Vector]) -> None:
        # One limit for all streams together, since they are waited for in turn.
        deadline = self._clock.monotonic_s() + _CATCH_UP_LIMIT_S
        for stream in FOLLOWED:
            vector = wanted.get(stream.name)
            if vector is None or self._follower.covers(stream, vector):
                continue
            if not await self._follower.wait_for(stream, vector, deadline - self._clock.monotonic_s()):
                raise Unavailable("This process has not caught up with the token. Please try again")

    def _is_beyond(self, wanted: Vector, stream: Stream) -> bool:
        own = self._follower.vector(stream)
        return wanted.known > own.known or (stream.kind is not Kind.EPHEMERAL and wanted.greatest > own.greatest)

    async def _refuse_future(self, token: StreamToken) -> None:
        ends = await get_stream_ends(self._reads, _STORED)
        for stream in FOLLOWED:
            vector = token.vector(stream.name)
            if vector.known > ends.lease or vector.greatest > ends.positions.get(stream.name, vector.greatest):
                raise invalid_param("The token is from the future")
