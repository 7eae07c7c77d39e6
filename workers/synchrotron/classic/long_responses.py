"""Limits of initial syncs and other long responses: how many are built at a time, and how many are being sent.

Building a piece takes CPU: a limited number at a time, in fair turns among users. A built piece that waits for its
client takes memory: as many responses are under way as the budget allows, and each user has a share of them. Others
wait before they begin. Slow clients are disconnected (`shared/http/asgi.py`), so none of these waits is long.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from shared.config.sections import Shares
from shared.core.identifiers import UserId
from shared.runtime.fair_shares import FairShares
from workers.synchrotron.classic.response_pieces import WHOLE_BYTES

#: The memory of one response under way, unless a single room is larger: a piece here and one with the listener.
_RESPONSE_BYTES = 2 * WHOLE_BYTES
_WHAT = "long answers of /sync"


class InitialSyncs:
    """The turns of long responses."""

    def __init__(self, at_once: int, budget_bytes: int, shares: Shares) -> None:
        #: Turns to build a piece. A response under way is never refused one.
        self.turns = FairShares(_WHAT, at_once)
        #: Places to be under way, from the beginning until the client has taken the last piece.
        places = max(1, budget_bytes // _RESPONSE_BYTES)
        self.under_way = FairShares(
            _WHAT,
            places,
            # One user never holds all places.
            per_user=max(1, min(shares.long_answers_per_user, places - 1)),
            waiting_per_user=shares.waiting_per_user,
            patience_s=shares.patience_s,
        )


class LongResponse:
    """The pieces of one response.

    `held` is closed after the last piece. Closing it may raise, for example when the access token ended. Then the
    connection breaks before the end of the response, and the client discards what it received.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], turns: FairShares, user_id: UserId, held: AsyncExitStack
    ) -> None:
        self._pieces = pieces
        self._turns = turns
        self._user_id = user_id
        self._held = held

    def __aiter__(self) -> "LongResponse":
        return self

    async def __anext__(self) -> bytes:
        async with self._turns.place(self._user_id):
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
