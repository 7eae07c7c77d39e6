"""Sessions of user-interactive authentication. Any worker can continue one.

The secrets of a request (passwords) are not stored: callers leave them out or hash them first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database

# All use the primary key of uia_sessions.
_CREATE = """
    INSERT INTO uia_sessions (session_id, user_id, operation, request, completed, created_ms)
    VALUES ($1, $2, $3, $4, '{}', $5)
"""
_GET = """
    SELECT session_id, user_id, operation, request, completed FROM uia_sessions
    WHERE session_id = $1 AND created_ms > $2
"""
_COMPLETE = """
    UPDATE uia_sessions SET completed = completed || $2::jsonb WHERE session_id = $1 RETURNING completed
"""
_END = "DELETE FROM uia_sessions WHERE session_id = $1"


@dataclass(frozen=True, slots=True)
class UiaSession:
    """A session. request: the first request's body without `auth`. completed: stage -> its result."""

    session_id: str
    user_id: UserId | None
    operation: str
    request: Mapping[str, Any]
    completed: Mapping[str, str]


async def create_uia_session(database: Database, session: UiaSession, now_ms: int) -> None:
    request = orjson.dumps(session.request)
    await database.execute(_CREATE, session.session_id, session.user_id, session.operation, request, now_ms)


async def get_uia_session(database: Database, session_id: str, newer_than_ms: int) -> UiaSession | None:
    """Return the session, unless it is unknown or began before `newer_than_ms`."""
    row = await database.fetchrow(_GET, session_id, newer_than_ms)
    if row is None:
        return None
    request, completed = orjson.loads(row["request"]), orjson.loads(row["completed"])
    return UiaSession(row["session_id"], row["user_id"], row["operation"], request, completed)


async def complete_stage(database: Database, session_id: str, stage: str, result: str) -> Mapping[str, str]:
    """Record that a stage was passed. Return all that were. result: free of U+0000, since JSON holds it."""
    passed = {stage: result}
    completed = await database.fetchval(_COMPLETE, session_id, orjson.dumps(passed).decode())
    found: Mapping[str, str] = orjson.loads(completed) if completed is not None else passed
    return found


async def end_uia_session(database: Database, session_id: str) -> None:
    await database.execute(_END, session_id)
