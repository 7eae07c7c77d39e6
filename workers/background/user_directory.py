"""The job that keeps the user directory, soon after names and rooms changed. One process works at a time."""

import asyncio

from shared.storage.engine.pool import Database
from shared.storage.search.user_directory import fill_directory

_EVERY_S = 1.0


class UserDirectoryJob:
    def __init__(self, database: Database, server_name: str) -> None:
        self._database = database
        self._server_name = server_name

    async def run(self) -> None:
        """Follow users and rooms. Runs until cancelled."""
        while True:
            if not await fill_directory(self._database, self._server_name):
                await asyncio.sleep(_EVERY_S)
