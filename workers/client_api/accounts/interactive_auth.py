"""User-interactive authentication. Spec: client-server API, "User-Interactive Authentication API".

Each request demands one of several flows. A session in the database holds the stages that are complete, so any worker
can continue it. A request without `auth` always gets 401.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from shared.core.errors import InteractiveAuthNeeded, MatrixError, bad_json, forbidden
from shared.core.identifiers import UserId
from shared.runtime.clock import Clock
from shared.storage.accounts.interactive_auth import (
    UiaSession,
    complete_stage,
    create_uia_session,
    end_uia_session,
    get_uia_session,
)
from shared.storage.engine.pool import Database

#: Checks the `auth` object of one stage and returns the result to store. Raises MatrixError: after 401 and 403 the
#: client may try again, `WrongUser` and every other status end the request.
Stage: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[str]]
#: Returns the request body without secrets, as it may be stored.
Conceal: TypeAlias = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_MAX_SESSION_CHARS = 100
#: The longest request that a session keeps, as JSON: of a stranger, and of a user.
_MAX_KEPT_OPEN_BYTES = 4096
_MAX_KEPT_BYTES = 65_536


class WrongUser(MatrixError):
    """M_FORBIDDEN for a stage that another user passed. It ends the request, since no retry can succeed."""

    def __init__(self) -> None:
        super().__init__("M_FORBIDDEN", "auth names another user than the access token", 403)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The authentication that a request needs."""

    operation: str  # the operation that the session is for, such as "register" or "delete_device ABC"
    user_id: UserId | None  # None if there is no user yet
    flows: Sequence[Sequence[str]]  # a list of stages each
    stages: Mapping[str, Stage]  # the check of each stage
    params: Mapping[str, Any] = field(default_factory=dict)  # for the client, by stage
    #: True if a later request may differ from the first. At registration, clients request the flows first.
    may_change: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """A complete authentication."""

    request: dict[str, Any]  # the body of the first request updated by this one, without `auth`
    results: Mapping[str, str]  # by stage
    session_id: str | None


class InteractiveAuth:
    """Sessions of user-interactive authentication."""

    def __init__(self, database: Database, clock: Clock, lifetime_s: int) -> None:
        """lifetime_s: the age at which an unfinished session expires."""
        self._database = database
        self._clock = clock
        self._lifetime_ms = lifetime_s * 1000

    async def check(self, demand: Demand, body: dict[str, Any], conceal: Conceal | None = None) -> Passed:
        """Return once one of the flows is complete. The caller then acts, and ends the session with `end`.

        Raises InteractiveAuthNeeded (401), M_BAD_JSON, M_UNRECOGNIZED for a type that is in no flow, and M_FORBIDDEN
        if the session was begun for another request, operation or user.
        """
        given = {key: value for key, value in body.items() if key != "auth"}
        auth = body.get("auth")
        if auth is None:
            auth = {}
        if not isinstance(auth, dict):
            raise bad_json("auth must be an object")
        session_id, stage = _text(auth, "session"), _text(auth, "type")
        if session_id is None and stage is None:
            raise self._needed(demand, await self._begin(demand, given, conceal))
        session = None
        if session_id is not None:
            session = await self._find(session_id)
            if session is None:
                error = MatrixError("M_UNKNOWN", "The session is unknown or has expired")
                raise self._needed(demand, await self._begin(demand, given, conceal), error)
            if not _belongs(session, demand):
                raise forbidden("The session belongs to another request")
            if not demand.may_change and any(
                given[key] != value for key, value in session.request.items() if key in given
            ):
                raise forbidden("The request differs from the one that this session was begun for")
        return await self._continue(demand, session, given, stage, auth, conceal)

    async def result(self, demand: Demand, session_id: str | None, name: str) -> str | None:
        """Return the result that a session has stored under a name; None if there is no such session or result.

        Such a session may belong to the user whom it made.
        """
        session = None if session_id is None else await self._find(session_id)
        return None if session is None or session.operation != demand.operation else session.completed.get(name)

    async def end(self, passed: Passed) -> None:
        """Delete the session. A session serves one request only."""
        if passed.session_id is not None:
            await end_uia_session(self._database, passed.session_id)

    async def _continue(
        self,
        demand: Demand,
        session: UiaSession | None,
        given: dict[str, Any],
        stage: str | None,
        auth: Mapping[str, Any],
        conceal: Conceal | None,
    ) -> Passed:
        completed = dict(session.completed) if session is not None else {}
        failure: MatrixError | None = None
        newly_passed = False
        if stage is not None and stage not in completed:
            if not any(stage in flow for flow in demand.flows):
                raise MatrixError("M_UNRECOGNIZED", "auth.type is in none of the flows that this request accepts")
            try:
                completed[stage] = await demand.stages[stage](auth)
                newly_passed = True
            except WrongUser:
                raise
            except MatrixError as error:
                if error.status not in (401, 403):
                    raise
                failure = error
        if failure is None and any(all(part in completed for part in flow) for flow in demand.flows):
            request = {**session.request, **given} if session is not None else given
            return Passed(request, completed, session.session_id if session is not None else None)
        if session is None:
            session = await self._begin(demand, given, conceal)
        if newly_passed and stage is not None:
            completed = dict(await complete_stage(self._database, session.session_id, stage, completed[stage]))
        raise self._needed(demand, session, failure, completed)

    async def _begin(self, demand: Demand, given: dict[str, Any], conceal: Conceal | None) -> UiaSession:
        request = await conceal(given) if conceal is not None else given
        most = _MAX_KEPT_OPEN_BYTES if demand.user_id is None else _MAX_KEPT_BYTES
        if len(orjson.dumps(request)) > most:
            raise MatrixError("M_TOO_LARGE", f"The request must have at most {most} bytes without `auth`", 413)
        session = UiaSession(
            session_id=secrets.token_urlsafe(24),
            user_id=demand.user_id,
            operation=demand.operation,
            request=request,
            completed={},
        )
        await create_uia_session(self._database, session, self._clock.now_ms())
        return session

    async def _find(self, session_id: str) -> UiaSession | None:
        if len(session_id) > _MAX_SESSION_CHARS or not session_id.isascii() or "\x00" in session_id:
            return None
        return await get_uia_session(self._database, session_id, self._clock.now_ms() - self._lifetime_ms)

    def _needed(
        self,
        demand: Demand,
        session: UiaSession,
        failure: MatrixError | None = None,
        completed: Mapping[str, str] | None = None,
    ) -> InteractiveAuthNeeded:
        body: dict[str, Any] = {
            "session": session.session_id,
            "flows": [{"stages": list(flow)} for flow in demand.flows],
            "params": dict(demand.params),
            "completed": list(completed or ()),
        }
        if failure is not None:
            body |= {"errcode": failure.errcode, "error": failure.message}
        return InteractiveAuthNeeded(body)


def session_of(body: Mapping[str, Any]) -> str | None:
    """Return the id of the session that a request names."""
    auth = body.get("auth")
    session_id = auth.get("session") if isinstance(auth, dict) else None
    return session_id if isinstance(session_id, str) else None


def _belongs(session: UiaSession, demand: Demand) -> bool:
    return session.operation == demand.operation and session.user_id == demand.user_id


async def pass_dummy(auth: Mapping[str, Any]) -> str:
    """Pass the stage `m.login.dummy`, which needs nothing."""
    return "true"


def _text(auth: Mapping[str, Any], key: str) -> str | None:
    value = auth.get(key)
    if value is not None and not isinstance(value, str):
        raise bad_json(f"auth.{key} must be a string")
    return value
