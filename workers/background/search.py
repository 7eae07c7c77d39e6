"""The jobs that fill the search index and the user directory, a second after the changes.

One process at a time does the work of each job: it holds the row with the progress.
"""

import asyncio

from shared.storage.engine.pool import Database
from shared.storage.search.event_words import index_events
from shared.storage.search.user_directory import fill_directory

_EVERY_S = 1.0


class SearchIndexJob:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Follow the events. Runs until cancelled."""
        while True:
            if not await index_events(self._database):
                await asyncio.sleep(_EVERY_S)


class UserDirectoryJob:
    def __init__(self, database: Database, server_name: str) -> None:
        self._database = database
        self._server_name = server_name

    async def run(self) -> None:
        """Follow users and rooms. Runs until cancelled."""
        while True:
            if not await fill_directory(self._database, self._server_name):
                await asyncio.sleep(_EVERY_S)
