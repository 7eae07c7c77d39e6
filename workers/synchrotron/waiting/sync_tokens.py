"""Tokens of /sync here: the place of this process, and whether it has come as far as a client's token."""

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
from shared.core.errors import Unavailable, invalid_param
from shared.core.sync_tokens.stream_token import StreamToken, format_token, parse_token
from shared.core.sync_tokens.vector import Vector
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.streams.ends import get_stream_ends, get_user_ends

FOLLOWED = (
    EVENTS, RECEIPTS, ACCOUNT_DATA, PUSH_RULES, TO_DEVICE, DEVICE_LISTS, ONE_TIME_KEYS, THREAD_SUBSCRIPTIONS, TYPING,
    PRESENCE,
)  # fmt: skip
_STORED = tuple(stream.name for stream in FOLLOWED if stream.kind is not Kind.EPHEMERAL)
_BEHIND_LIMIT_S = 5.0
_MAX_KNOWN = 1000


def format_sync_token(token: StreamToken) -> str:
    return format_token(token, TOKEN_LETTERS)


class _Known:
    """reached: this process has applied all that is behind the token, which stays so."""

    __slots__ = ("reached", "token")

    def __init__(self, token: StreamToken, *, reached: bool) -> None:
        self.token = token
        self.reached = reached


class Tokens:
    def __init__(self, follower: Follower, reads: Source, clock: Clock) -> None:
        self._follower = follower
        self._reads = reads
        self._clock = clock
        #: All who were told of an event are given the same token, and come back with it.
        self._known: dict[str, _Known] = {}
        self._now = StreamToken({})
        self._now_text = ""

    def now(self) -> StreamToken:
        """Return what this process has applied: the same object as before, where nothing came since."""
        vectors = {stream.name: self._follower.vector(stream) for stream in FOLLOWED}
        if self._now.vectors != vectors:
            self._now, self._now_text = StreamToken(vectors), ""
        return self._now

    def text(self, token: StreamToken) -> str:
        """Return the token of an answer, as `format_sync_token`."""
        if token is not self._now:
            return format_sync_token(token)
        if not self._now_text:
            self._now_text = format_sync_token(token)
            self._remember(self._now_text, token, reached=True)
        return self._now_text

    async def parse(self, text: str) -> StreamToken:
        """Return the parsed token. Raises M_INVALID_PARAM for a malformed one, or one from the future."""
        return (await self._parse(text)).token

    async def _parse(self, text: str) -> _Known:
        known = self._known.get(text)
        if known is None:
            known = self._remember(text, parse_token(text, TOKEN_LETTERS), reached=False)
        # Only what is above all that we have seen can be from the future; then Postgres decides, at once.
        if not known.reached and any(self._beyond(known.token.vector(stream.name), stream) for stream in FOLLOWED):
            await self._refuse_future(known.token)
        return known

    def _remember(self, text: str, token: StreamToken, *, reached: bool) -> _Known:
        if len(self._known) >= _MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        known = self._known[text] = _Known(token, reached=reached)
        return known

    async def reach(self, text: str) -> StreamToken:
        """Return the parsed token once this process has applied everything behind it.

        Raises what `parse` does, and Unavailable when we lag for too long.
        """
        known = await self._parse(text)
        if not known.reached:
            await self._wait_for({stream.name: known.token.vector(stream.name) for stream in FOLLOWED})
            known.reached = True
        return known.token

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
