"""Questions to other servers, for clients of ours.

Equal questions at the same time are asked once, and answers are kept briefly.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from replication.calls.fetches import (
    ASK_ALIAS,
    ASK_PROFILE,
    AliasElsewhere,
    AnswerFromElsewhere,
    ProfileElsewhere,
)
from shared.cache.byte_budget import ByteBudgetCache
from shared.core.errors import RemoteServerError
from shared.core.identifiers import ServerName
from shared.federation.requests import RefusedByServer, ServerRequests
from shared.http.outside.client import OutsideLimits
from shared.runtime.clock import Clock

_LIMITS = OutsideLimits(connect_s=5.0, first_byte_s=8.0, total_s=10.0, body_bytes=100_000)
_KEPT_S = 60.0
#: A server that cannot be reached is asked again soon, but not by everybody at once.
_FAILURE_KEPT_S = 10.0
_CACHE_BYTES = 4 << 20
_ENTRY_BYTES = 500
_MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: AnswerFromElsewhere
    until_s: float


class AskingElsewhere:
    def __init__(self, requests: ServerRequests, clock: Clock) -> None:
        self._requests = requests
        self._clock = clock
        self._kept: ByteBudgetCache[tuple[str, str], _Kept] = ByteBudgetCache(_CACHE_BYTES)
        self._asking: dict[tuple[str, str], asyncio.Task[AnswerFromElsewhere]] = {}

    @ASK_PROFILE.handler
    async def ask_profile(self, server: str, question: ProfileElsewhere) -> AnswerFromElsewhere:
        """Return the profile of a user of another server, or one field."""
        query = {"user_id": question.user_id} | ({"field": question.field} if question.field else {})
        return await self._ask(ServerName(server), f"/_matrix/federation/v1/query/profile?{urlencode(query)}")

    @ASK_ALIAS.handler
    async def ask_alias(self, server: str, question: AliasElsewhere) -> AnswerFromElsewhere:
        """Return the room of an alias of another server."""
        query = urlencode({"room_alias": question.alias})
        return await self._ask(ServerName(server), f"/_matrix/federation/v1/query/directory?{query}")

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask(self, server: ServerName, uri: str) -> AnswerFromElsewhere:
        key = (server, uri)
        kept = self._kept.get(key)
        if kept is not None and kept.until_s > self._clock.monotonic_s():
            return kept.answer
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(server, uri))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _fetch(self, server: ServerName, uri: str) -> AnswerFromElsewhere:
        answer = await _answer_of(lambda: self._requests.ask(server, "GET", uri, limits=_LIMITS))
        reached = answer.content is not None or answer.status
        until_s = self._clock.monotonic_s() + (_KEPT_S if reached else _FAILURE_KEPT_S)
        size = 2 * (_ENTRY_BYTES + len(uri) + len(msgspec.json.encode(answer)))
        self._kept.put((server, uri), _Kept(answer, until_s), size)
        return answer


async def _answer_of(ask: Callable[[], Awaitable[object]]) -> AnswerFromElsewhere:
    try:
        content = await ask()
    except RefusedByServer as error:
        return AnswerFromElsewhere(
            status=error.status, errcode=error.errcode, message=error.message[:_MAX_MESSAGE_CHARS]
        )
    except RemoteServerError as error:
        return AnswerFromElsewhere(message=str(error)[:_MAX_MESSAGE_CHARS])
    if not isinstance(content, dict):
        return AnswerFromElsewhere(message="its answer is not a JSON object")
    return AnswerFromElsewhere(content=content)
