"""The two endpoints of sliding sync: parse the request, wait for updates, respond in the same form.

Spec: MSC4186, "Connections", "API".
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from shared.core.errors import MatrixError
from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.endpoint import RateLimit, RoutingKey, Share
from shared.http.request import Request, Requester, Response
from shared.http.serving import endpoint
from shared.metrics.synchrotron import SyncMetrics
from shared.runtime.clock import Clock
from shared.runtime.fair_shares import FairShares
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.sliding import deployed_codec, merged_codec
from workers.synchrotron.sliding.connection_state import ConnectionState
from workers.synchrotron.sliding.connections import EMPTY, Connections, unknown_pos
from workers.synchrotron.sliding.engine import Engine
from workers.synchrotron.sliding.extensions.extension import SENT_BITS, Extensions, parse_scope
from workers.synchrotron.sliding.pending import BuiltResponse, EnabledExtension, PendingRequest, Progress
from workers.synchrotron.sliding.pos import Pos, format_pos, owner_of, parse_pos
from workers.synchrotron.sliding.request import MAX_BODY_BYTES, Limits, SlidingRequest
from workers.synchrotron.sliding.response import RoomResult, SlidingResponse
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.user_cache import UserCache
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.sync_tokens import SyncTokens, format_sync_token

#: Runs a long wait and cancels it when the requester's access token ends: `TokenAuthenticator.hold`.
Hold: TypeAlias = Callable[[Requester], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Codec:
    """One form of the endpoint."""

    parse: Callable[[Request, Limits], SlidingRequest]
    room_fields: Callable[[RoomResult], dict[str, Any]]
    #: True if responses have unread counts.
    with_counts: bool


DEPLOYED = Codec(deployed_codec.parse, deployed_codec.room_fields, with_counts=True)
MERGED = Codec(merged_codec.parse, merged_codec.room_fields, with_counts=False)


class SlidingSync:
    """The handlers of both endpoints."""

    def __init__(
        self,
        *,
        users: UserCache,
        engine: Engine,
        connections: Connections,
        extensions: Extensions,
        tokens: SyncTokens,
        notifier: Notifier,
        lazy_members: LazyMembers,
        turns: FairShares,
        reports: PresenceReports,
        hold: Hold,
        clock: Clock,
        metrics: SyncMetrics,
        limits: Limits,
    ) -> None:
        self._users = users
        self._engine = engine
        self._connections = connections
        self._extensions = extensions
        self._tokens = tokens
        self._notifier = notifier
        self._lazy_members = lazy_members
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._hold = hold
        self._reports = reports
        self._turns = turns

    @endpoint(
        name="sync_deployed",
        method="POST",
        path="/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        pool="sync",
        rate_limit=RateLimit.SYNC,
        share=Share.POLLS,
        routing_key=RoutingKey.TOKEN_USER,
        body_limit_bytes=MAX_BODY_BYTES,
        idempotent=True,
        spec="MSC4186",
    )
    async def sync_deployed(self, request: Request) -> Response:
        """POST /unstable/org.matrix.simplified_msc3575/sync. Raises M_UNKNOWN_POS, and for bad bodies and queries."""
        return await self._sync(request, DEPLOYED)

    @endpoint(
        name="sync_merged",
        method="POST",
        path="/_matrix/client/v4/sync",
        pool="sync",
        rate_limit=RateLimit.SYNC,
        share=Share.POLLS,
        routing_key=RoutingKey.TOKEN_USER,
        body_limit_bytes=MAX_BODY_BYTES,
        idempotent=True,
        spec="MSC4186",
    )
    async def sync_merged(self, request: Request) -> Response:
        """POST /v4/sync. Raises M_UNKNOWN_POS, and for bad bodies."""
        return await self._sync(request, MERGED)

    async def _sync(self, request: Request, codec: Codec) -> Response:
        wanted = codec.parse(request, self._limits)
        extensions = self._enabled_extensions(wanted.extensions)
        requester = request.user
        owner = owner_of(requester.user_id, requester.device_id, wanted.conn_id)
        syncing = self._reports.syncing(requester.user_id, requester.device_id, wanted.presence)
        async with self._hold(requester):
            pos = None if wanted.pos is None else _own_pos(wanted.pos, owner)
            token = await self._reach(pos)
            with syncing, self._users.pinned(requester.user_id):
                user = await self._users.get(requester.user_id)
                connection = self._connections.get(requester.user_id, requester.device_id, wanted.conn_id)
                sent = self._lazy_members.begin(
                    requester.user_id, "\x00".join((requester.device_id or "", wanted.conn_id)), wanted.pos
                )
                pending = PendingRequest(
                    request=wanted,
                    extensions=extensions,
                    connection=connection,
                    user=user,
                    device_id=requester.device_id,
                    device_created_ms=requester.device_created_ms,
                    sent_members=sent,
                    with_counts=codec.with_counts,
                )
                number = EMPTY if pos is None else pos.number
                progress = await self._progress(pending, token, number)
                if token is None:
                    # A first response must have what the user wrote before, on any process.
                    await self._tokens.reach_present(requester.user_id)
                elif not wanted.timeout_s:
                    await self._tokens.reach_own_data(requester.user_id)
                built = await self._wait_for_updates(pending, progress)
                reached = built.progress
                if reached.state is not progress.state:
                    number = await self._connections.store(connection, number, reached.state)
                text = _format(owner, number, reached.token)
                connection.note_counts(text, wanted.lists, built.response.counts)
                connection.settle(reached.state, pending.shape, reached.settled)
                if reached.seq is not None:
                    user.note_token(text, reached.seq)
                self._lazy_members.complete(sent, text)
                self._connections.remember(connection)
        return Response(_encode(text, built.response, codec))

    def _enabled_extensions(self, requested: Mapping[str, Mapping[str, Any]]) -> list[EnabledExtension]:
        """Return the known extensions that are enabled. Raises M_BAD_JSON, M_INVALID_PARAM."""
        found = []
        for name, parameters in requested.items():
            extension = self._extensions.get(name)
            scope = None if extension is None else parse_scope(parameters)
            if extension is not None and scope is not None:
                found.append(
                    EnabledExtension(
                        extension=extension,
                        parameters=extension.check(parameters),
                        scope=scope,
                        bit=SENT_BITS[name] if extension.per_room else 0,
                    )
                )
        return found

    async def _reach(self, pos: Pos | None) -> StreamToken | None:
        """Return the token of a `pos` once this process has applied everything up to it."""
        if pos is None:
            return None
        try:
            return await self._tokens.reach(pos.token)
        except MatrixError as error:
            raise unknown_pos() from error

    async def _progress(self, pending: PendingRequest, token: StreamToken | None, number: int) -> Progress:
        if token is None:
            return Progress(None, None, ConnectionState())
        state = await self._connections.state(pending.connection, number, pending.user)
        assert pending.request.pos is not None
        settled = pending.connection.settled_for(state, pending.shape)
        return Progress(token, pending.user.seq_of(pending.request.pos), state, settled)

    async def _wait_for_updates(self, pending: PendingRequest, progress: Progress) -> BuiltResponse:
        """Build responses until one is worth sending or the timeout is over."""
        user, pos = pending.user, pending.request.pos
        initial = pos is None
        count, seconds = self._metrics.answers("initial" if initial else "incremental")
        deadline = self._clock.monotonic_s() + pending.request.timeout_s
        counts = None if pos is None else pending.connection.counts_of(pos, pending.request.lists)
        while True:
            seen = user.version
            async with self._turns.place(user.user_id) if initial else nullcontext():
                if initial or user.may_have_forgotten:
                    await self._users.learn_forgotten(user)
                with seconds.time():
                    built = await self._engine.build(pending, progress)
            if initial or not built.empty or (counts is not None and counts != built.response.counts):
                break
            counts, progress = dict(built.response.counts), built.progress
            if not await self._notifier.wait(user, seen, deadline - self._clock.monotonic_s(), pending.device_id):
                break
        count.inc()
        return built


def _own_pos(text: str, owner: str) -> Pos:
    pos = parse_pos(text)
    if pos is None or pos.owner != owner:
        raise unknown_pos()
    return pos


def _format(owner: str, number: int, token: StreamToken | None) -> str:
    assert token is not None
    return format_pos(Pos(owner, number, format_sync_token(token)))


def _encode(pos: str, response: SlidingResponse, codec: Codec) -> bytes:
    return orjson.dumps(
        {
            "pos": pos,
            "lists": {name: {"count": count} for name, count in response.counts.items()},
            "rooms": {room_id: codec.room_fields(room) for room_id, room in response.rooms.items()},
            "extensions": response.extensions,
        }
    )
