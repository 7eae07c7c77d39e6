"""GET /sync: wait for news, answer with it. Spec: client-server API, "Syncing"."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.endpoint import RoutingKey
from shared.http.request import Request, Requester, Response
from shared.http.serving import endpoint
from shared.metrics.synchrotron import SyncMetrics
from shared.runtime.clock import Clock
from workers.synchrotron.classic.long_answers import InitialSyncs, LongAnswer
from workers.synchrotron.classic.sync_answer import Answer, SyncAnswers
from workers.synchrotron.classic.sync_request import Filters, SyncRequest, parse_sync_request
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.users.lazy_members import LazyMembers, SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.sync_tokens import Tokens

#: Runs what may wait for long while the requester's token holds (`TokenAuthenticator.hold`).
Hold: TypeAlias = Callable[[Requester], AbstractAsyncContextManager[None]]


class WholeAnswer(NamedTuple):
    """text: its token."""

    text: str
    body: bytes


class SyncHandler:
    """The one handler of the pool `sync`."""

    def __init__(
        self, users: UserRooms, answers: SyncAnswers, tokens: Tokens, notifier: Notifier, filters: Filters,
        lazy_members: LazyMembers, max_timeout_ms: int, clock: Clock, metrics: SyncMetrics, hold: Hold,
        reports: PresenceReports, initial_syncs: InitialSyncs,
    ) -> None:  # fmt: skip
        self._users = users
        self._answers = answers
        self._tokens = tokens
        self._notifier = notifier
        self._filters = filters
        self._lazy_members = lazy_members
        self._max_timeout_ms = max_timeout_ms
        self._clock = clock
        self._metrics = metrics
        self._hold = hold
        self._reports = reports
        self._initial = initial_syncs

    @endpoint(
        name="get_sync",
        method="GET",
        path="/_matrix/client/{version}/sync",
        pool="sync",
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3sync",
    )
    async def get_sync(self, request: Request) -> Response:
        wanted = await parse_sync_request(request, self._filters, self._max_timeout_ms)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._reports.syncing(wanted.user_id, wanted.device_id, wanted.presence))
            await stack.enter_async_context(self._hold(request.user))
            stack.enter_context(self._users.use(wanted.user_id))
            answer = await self._answer_to(wanted, stack)
            if not isinstance(answer.body, bytes):
                # All this goes on until the last piece was taken.
                return Response(LongAnswer(answer.body, self._initial.turns, wanted.user_id, stack.pop_all()))
        return Response(answer.body)

    async def whole_answer(self, wanted: SyncRequest) -> WholeAnswer:
        """Return an answer whole, however long: for what makes something else of it (the endpoints before /sync)."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._users.use(wanted.user_id))
            answer = await self._answer_to(wanted, stack)
            if isinstance(answer.body, bytes):
                return WholeAnswer(answer.text, answer.body)
            async with aclosing(answer.body) as pieces:
                return WholeAnswer(answer.text, b"".join([piece async for piece in pieces]))

    async def _answer_to(self, wanted: SyncRequest, stack: AsyncExitStack) -> Answer:
        since = None if wanted.since is None else await self._tokens.reach(wanted.since)
        user = await self._users.get(wanted.user_id)
        if since is None:
            # What the user was told of his own writes elsewhere must be in the first answer that has no token.
            await self._tokens.reach_present(wanted.user_id)
        under_way = self._initial.under_way.turn(wanted.user_id)
        if since is None or wanted.full_state:
            await stack.enter_async_context(under_way)
            async with self._initial.turns.turn(wanted.user_id):
                answer = await self._answer(wanted, user, since)
        else:
            answer = await self._answer(wanted, user, since)
            if not isinstance(answer.body, bytes):
                await stack.enter_async_context(under_way)
        user.note_token(answer.text, answer.seq)
        return answer

    async def _answer(self, wanted: SyncRequest, user: SyncUser, since: StreamToken | None) -> Answer:
        lazy = wanted.filter.room.state
        device = None
        if lazy.lazy_load_members:
            device = self._lazy_members.begin(user.user_id, wanted.device_id or "", wanted.since)
        sent = None if lazy.include_redundant_members else device
        text = wanted.since
        deadline = self._clock.monotonic_s() + wanted.timeout_s
        count, seconds = self._metrics.answers("initial" if since is None else "incremental")
        while True:
            seen = user.version
            with seconds.time():
                answer = await self._answers.build(wanted, user, since, text, sent)
            if not answer.empty or since is None or wanted.full_state:
                break
            # Nothing for this client behind its token: from here on only what is new is looked at.
            if not answer.waits:
                since, text = answer.token, answer.text
                user.note_token(answer.text, answer.seq)
            if not await self._notifier.wait(user, seen, deadline - self._clock.monotonic_s(), wanted.device_id):
                if self._answers.is_behind(answer):
                    answer = await self._answers.build(wanted, user, since, text, sent)
                break
        count.inc()
        if device is None:
            return answer
        if isinstance(answer.body, bytes):
            self._lazy_members.answered(device, answer.text)
            return answer
        return replace(answer, body=self._noting(answer.body, device, answer.text))

    async def _noting(
        self, pieces: AsyncGenerator[bytes, None], device: SentMembers, token: str
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
        self._lazy_members.answered(device, token)
