"""GET /sync: wait for updates and respond with them. Spec: client-server API, "Syncing"."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Requester, Response
from shared.http.serving import endpoint
from shared.metrics.synchrotron import SyncMetrics
from shared.runtime.clock import Clock
from workers.synchrotron.classic.long_responses import InitialSyncs, LongResponse
from workers.synchrotron.classic.sync_request import Filters, SyncRequest, parse_sync_request
from workers.synchrotron.classic.sync_response import SyncResponse, SyncResponses
from workers.synchrotron.presence.feed import PresenceFeed
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.users.lazy_members import LazyMembers, SentMembers
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.sync_tokens import SyncTokens

#: Runs a long wait and cancels it when the requester's access token ends: `TokenAuthenticator.hold`.
Hold: TypeAlias = Callable[[Requester], AbstractAsyncContextManager[None]]


class WholeResponse(NamedTuple):
    """A response's token and its whole body."""

    token: str
    body: bytes


class SyncHandler:
    """The handler of GET /sync."""

    def __init__(
        self,
        *,
        users: UserCache,
        responses: SyncResponses,
        tokens: SyncTokens,
        notifier: Notifier,
        filters: Filters,
        lazy_members: LazyMembers,
        initial_syncs: InitialSyncs,
        reports: PresenceReports,
        presence: PresenceFeed,
        hold: Hold,
        clock: Clock,
        metrics: SyncMetrics,
        max_timeout_ms: int,
    ) -> None:
        self._users = users
        self._responses = responses
        self._tokens = tokens
        self._notifier = notifier
        self._filters = filters
        self._lazy_members = lazy_members
        self._max_timeout_ms = max_timeout_ms
        self._clock = clock
        self._metrics = metrics
        self._hold = hold
        self._reports = reports
        self._presence = presence
        self._initial = initial_syncs

    @endpoint(
        name="get_sync",
        method="GET",
        path="/_matrix/client/{version}/sync",
        pool="sync",
        rate_limit=RateLimit.SYNC,
        share=Share.POLLS,
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3sync",
    )
    async def get_sync(self, request: Request) -> Response:
        wanted = await parse_sync_request(request, self._filters, self._max_timeout_ms)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._reports.syncing(wanted.user_id, wanted.device_id, wanted.presence))
            await stack.enter_async_context(self._hold(request.user))
            stack.enter_context(self._users.pinned(wanted.user_id))
            response = await self._respond(wanted, stack)
            if not isinstance(response.body, bytes):
                # The stack stays open until the client has taken the last piece.
                return Response(LongResponse(response.body, self._initial.turns, wanted.user_id, stack.pop_all()))
        return Response(response.body)

    async def whole_response(self, wanted: SyncRequest) -> WholeResponse:
        """Return a response whole, however long, for the endpoints from before /sync that convert it."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._users.pinned(wanted.user_id))
            response = await self._respond(wanted, stack)
            if isinstance(response.body, bytes):
                return WholeResponse(response.text, response.body)
            async with aclosing(response.body) as pieces:
                return WholeResponse(response.text, b"".join([piece async for piece in pieces]))

    async def _respond(self, wanted: SyncRequest, stack: AsyncExitStack) -> SyncResponse:
        since = None if wanted.since is None else await self._tokens.reach(wanted.since)
        user = await self._users.get(wanted.user_id)
        if since is None:
            # A first response without a token must have what the user wrote before, on any process.
            await self._tokens.reach_present(wanted.user_id)
        elif not wanted.timeout_s:
            await self._tokens.reach_own_data(wanted.user_id)
        if since is None or not wanted.timeout_s:
            await self._presence.settle()
        under_way = self._initial.under_way.place(wanted.user_id)
        if since is None or wanted.full_state:
            await stack.enter_async_context(under_way)
            async with self._initial.turns.place(wanted.user_id):
                response = await self._wait_for_updates(wanted, user, since)
        else:
            response = await self._wait_for_updates(wanted, user, since)
            if not isinstance(response.body, bytes):
                await stack.enter_async_context(under_way)
        user.note_token(response.text, response.seq)
        return response

    async def _wait_for_updates(self, wanted: SyncRequest, user: SyncUser, since: StreamToken | None) -> SyncResponse:
        """Build responses until one is worth sending or the timeout is over."""
        state = wanted.filter.room.state
        members = None
        if state.lazy_load_members:
            members = self._lazy_members.begin(user.user_id, wanted.device_id or "", wanted.since)
        sent = None if state.include_redundant_members else members
        text = wanted.since
        deadline = self._clock.monotonic_s() + wanted.timeout_s
        count, seconds = self._metrics.answers("initial" if since is None else "incremental")
        while True:
            seen = user.version
            with seconds.time():
                response = await self._responses.build(wanted, user, since, text, sent)
            if not response.empty or since is None or wanted.full_state:
                break
            # The client needs nothing up to this token: later responses begin there.
            if not response.has_deferred:
                since, text = response.token, response.text
                user.note_token(response.text, response.seq)
            if not await self._notifier.wait(user, seen, deadline - self._clock.monotonic_s(), wanted.device_id):
                if self._responses.is_outdated(response):
                    response = await self._responses.build(wanted, user, since, text, sent)
                break
        count.inc()
        if members is None:
            return response
        if isinstance(response.body, bytes):
            self._lazy_members.complete(members, response.text)
            return response
        return replace(response, body=self._note_members(response.body, members, response.text))

    async def _note_members(
        self, pieces: AsyncGenerator[bytes, None], members: SentMembers, token: str
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece
        self._lazy_members.complete(members, token)
