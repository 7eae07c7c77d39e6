"""Initial syncs, and whatever else makes a long answer: how many are made at a time, and how they are sent.

An answer under way has two costs. Making a piece takes the processor: so many at a time, each user in his turn. What
was made and waits for its client takes memory: as many answers are under way as the budget bears, the others wait
before they begin. A client that takes nothing is cut off (`shared/http/server.py`), so that nobody waits for it long.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from workers.synchrotron.classic.answer_pieces import WHOLE_BYTES
from workers.synchrotron.waiting.fair_turns import FairTurns

#: What one answer under way holds at most, but for a single room that is larger: a piece here, one with the listener.
_ANSWER_BYTES = 2 * WHOLE_BYTES


class InitialSyncs:
    """turns: to assemble; under_way: to have begun, until all was taken."""

    def __init__(self, at_once: int, budget_bytes: int) -> None:
        self.turns = FairTurns(at_once)
        self.under_way = FairTurns(max(1, budget_bytes // _ANSWER_BYTES))


class LongAnswer:
    """The pieces of one answer. held: what goes on until the end; leaving it may still raise.

    It raises before the end of the answer is told, so that the connection breaks and no client keeps what it got.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], turns: FairTurns, user_id: str, held: AsyncExitStack
    ) -> None:
        self._pieces = pieces
        self._turns = turns
        self._user_id = user_id
        self._held = held

    def __aiter__(self) -> "LongAnswer":
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
