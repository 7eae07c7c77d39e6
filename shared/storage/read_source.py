"""What a reading query needs: a `Database`, one of its connections, or something that counts and passes on."""

from typing import Any, Protocol

import asyncpg


class Source(Protocol):
    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]: ...
    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None: ...
    async def fetchval(self, sql: str, *args: Any) -> Any: ...
