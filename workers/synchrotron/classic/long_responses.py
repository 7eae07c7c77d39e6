"""Limits of initial syncs and other long responses: how many are built at a time, and how many are being sent.

Building a piece takes CPU: a limited number at a time, in fair turns among users. A built piece that waits for its
client takes memory: as many responses are under way as the budget allows, and others wait before they begin. The
listener disconnects clients that take nothing (`shared/http/server.py`), so none of these waits is long.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from shared.core.identifiers import UserId
from workers.synchrotron.classic.response_pieces import WHOLE_BYTES
from workers.synchrotron.waiting.fair_turns import FairTurns

#: The memory of one response under way, unless a single room is larger: a piece here and one with the listener.
_RESPONSE_BYTES = 2 * WHOLE_BYTES


class InitialSyncs:
    """The turns of long responses."""

    def __init__(self, at_once: int, budget_bytes: int) -> None:
        #: Turns to build a piece.
        self.turns = FairTurns(at_once)
        #: Turns to be under way, from the beginning until the client has taken the last piece.
        self.under_way = FairTurns(max(1, budget_bytes // _RESPONSE_BYTES))


class LongResponse:
    """The pieces of one response.

    `held` is closed after the last piece. Closing it may raise, for example when the access token ended. Then the
    connection breaks before the end of the response, and the client discards what it received.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], turns: FairTurns, user_id: UserId, held: AsyncExitStack
    ) -> None:
        self._pieces = pieces
        self._turns = turns
        self._user_id = user_id
        self._held = held

    def __aiter__(self) -> "LongResponse":
        return self

    async def __anext__(self) -> bytes:
        async with self._turns.turn(self._user_id):
            piece = await anext(self._pieces, None)
        if piece is None:
            await self._held.aclose()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._held.aclose()
