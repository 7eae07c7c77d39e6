"""Auth chains of states as ids, from a graph of numbers that this process keeps for each room it is asked about."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from shared.cache.byte_budget import ByteBudgetCache
from shared.core.identifiers import EventId
from shared.core.state_resolution.auth_graph import AuthGraph
from shared.storage.engine.pool import Database
from shared.storage.events.auth_chains import get_auth_edges, get_event_ids

_PAGE = 5000  # events of one statement: some 30 ms of PostgreSQL
_MAX_ROOMS_LOCKED = 1000


class AuthChains:
    """budget_bytes: about how much memory the graphs may take. They are evicted least recently used first."""

    def __init__(self, database: Database, budget_bytes: int) -> None:
        self._database = database
        self._graphs: ByteBudgetCache[int, AuthGraph] = ByteBudgetCache(budget_bytes)
        self._turns: dict[int, asyncio.Lock] = {}

    async def chain_of(self, room_nid: int, event_nids: Collection[int]) -> list[int]:
        """Return the numbers of all events in the auth chains of a room's events, in no particular order.

        One request at a time grows a room's graph, so that equal requests read it once.
        """
        turn = self._turns.setdefault(room_nid, asyncio.Lock())
        try:
            async with turn:
                graph = self._graphs.get(room_nid) or AuthGraph()
                chain = await self._chain(graph, room_nid, event_nids)
                self._graphs.put(room_nid, graph, graph.size_bytes)
                return chain
        finally:
            if len(self._turns) > _MAX_ROOMS_LOCKED and not turn.locked():
                self._turns.pop(room_nid, None)

    async def ids(self, room_nid: int, event_nids: Sequence[int]) -> AsyncIterator[list[EventId]]:
        """Yield the ids of events, page by page, so that an answer can be sent while they are read."""
        for first in range(0, len(event_nids), _PAGE):
            page = event_nids[first : first + _PAGE]
            yield list((await get_event_ids(self._database, room_nid, page)).values())

    async def _chain(self, graph: AuthGraph, room_nid: int, event_nids: Collection[int]) -> list[int]:
        while True:
            unknown: Sequence[int] = ()
            for walk in graph.walk(event_nids):
                unknown = walk.unknown
                await asyncio.sleep(0)
            if not unknown:
                return walk.chain()
            await self._grow(graph, room_nid, unknown)

    async def _grow(self, graph: AuthGraph, room_nid: int, unknown: Sequence[int]) -> None:
        for first in range(0, len(unknown), _PAGE):
            page = unknown[first : first + _PAGE]
            for nid, auth_nids in await get_auth_edges(self._database, room_nid, page, max_events=_PAGE):
                graph.add(nid, auth_nids)
            for nid in page:
                graph.add(nid, ())  # nothing if it was added; the others are gone
            await asyncio.sleep(0)
