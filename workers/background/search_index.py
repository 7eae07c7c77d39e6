"""The job that makes events searchable, soon after they were sent. One process works at a time: it holds the row."""

import asyncio

from shared.storage.engine.pool import Database
from shared.storage.search.event_words import index_events

_EVERY_S = 1.0


class SearchIndex:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Follow the events. Runs until cancelled."""
        while True:
            if not await index_events(self._database):
                await asyncio.sleep(_EVERY_S)
