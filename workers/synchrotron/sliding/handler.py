"""The two endpoints of sliding sync: read the request in its form, look, wait for news, answer in that form.

Spec: MSC4186, "Connections", "API".
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from shared.core.errors import MatrixError
from shared.core.sync_tokens.stream_token import StreamToken
from shared.http.endpoint import RoutingKey
from shared.http.request import Request, Requester, Response
from shared.http.serving import endpoint
from shared.metrics.synchrotron import SyncMetrics
from shared.runtime.clock import Clock
from workers.synchrotron.presence.reports import PresenceReports
from workers.synchrotron.sliding import deployed_codec, merged_codec
from workers.synchrotron.sliding.answer import RoomAnswer, SlidingAnswer
from workers.synchrotron.sliding.connection_state import ConnectionState
from workers.synchrotron.sliding.connections import EMPTY, Connections, unknown_pos
from workers.synchrotron.sliding.engine import Ask, AskedExtension, Engine, Look, Since
from workers.synchrotron.sliding.extensions.registry import Extensions
from workers.synchrotron.sliding.extensions.scope import parse_scope
from workers.synchrotron.sliding.pos import Pos, format_pos, owner_of, parse_pos
from workers.synchrotron.sliding.request import Limits, SlidingRequest
from workers.synchrotron.users.lazy_members import LazyMembers
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.fair_turns import FairTurns
from workers.synchrotron.waiting.notifier import Notifier
from workers.synchrotron.waiting.sync_tokens import Tokens, format_sync_token

Hold: TypeAlias = Callable[[Requester], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Codec:
    """One form. with_counts: it has unread counts."""

    parse: Callable[[Request, Limits], SlidingRequest]
    room_fields: Callable[[RoomAnswer], dict[str, Any]]
    with_counts: bool


DEPLOYED = Codec(deployed_codec.parse, deployed_codec.room_fields, with_counts=True)
MERGED = Codec(merged_codec.parse, merged_codec.room_fields, with_counts=False)


class SlidingSync:
    def __init__(
        self, users: UserRooms, engine: Engine, connections: Connections, extensions: Extensions, tokens: Tokens,
        notifier: Notifier, lazy_members: LazyMembers, limits: Limits, clock: Clock, metrics: SyncMetrics, hold: Hold,
        reports: PresenceReports, turns: FairTurns,
    ) -> None:  # fmt: skip
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
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="MSC4186",
    )
    async def sync_deployed(self, request: Request) -> Response:
        """POST /unstable/org.matrix.simplified_msc3575/sync. Raises M_UNKNOWN_POS, and as any bad body or query."""
        return await self._sync(request, DEPLOYED)

    @endpoint(
        name="sync_merged",
        method="POST",
        path="/_matrix/client/v4/sync",
        pool="sync",
        routing_key=RoutingKey.TOKEN_USER,
        idempotent=True,
        spec="MSC4186",
    )
    async def sync_merged(self, request: Request) -> Response:
        """POST /v4/sync. Raises M_UNKNOWN_POS, and as any bad body."""
        return await self._sync(request, MERGED)

    async def _sync(self, request: Request, codec: Codec) -> Response:
        wanted = codec.parse(request, self._limits)
        extensions = self._asked_extensions(wanted.extensions)
        requester = request.user
        owner = owner_of(requester.user_id, requester.device_id, wanted.conn_id)
        syncing = self._reports.syncing(requester.user_id, requester.device_id, wanted.presence)
        async with self._hold(requester):
            pos = None if wanted.pos is None else _own_pos(wanted.pos, owner)
            token = await self._reach(pos)
            with syncing, self._users.use(requester.user_id):
                user = await self._users.get(requester.user_id)
                connection = self._connections.get(requester.user_id, requester.device_id, wanted.conn_id)
                sent = self._lazy_members.begin(
                    requester.user_id, "\x00".join((requester.device_id or "", wanted.conn_id)), wanted.pos
                )
                ask = Ask(wanted, extensions, connection, user, requester.device_id, sent, codec.with_counts)
                number = EMPTY if pos is None else pos.number
                since = await self._since(ask, token, number)
                if token is None:
                    # What the user was told of his own writes elsewhere must be in the first answer.
                    await self._tokens.reach_present(requester.user_id)
                look = await self._look_until_news(ask, since)
                if look.reached.state is not since.state:
                    number = await self._connections.store(connection, number, look.reached.state)
                connection.settled = look.reached.state, ask.shape, look.reached.settled
                self._connections.remember(connection)
                text = _format(owner, number, look.reached.token)
                if look.reached.seq is not None:
                    user.note_token(text, look.reached.seq)
                self._lazy_members.answered(sent, text)
        return Response(_encode(text, look.answer, codec))

    def _asked_extensions(self, asked: Mapping[str, Mapping[str, Any]]) -> list[AskedExtension]:
        """Return those that there are and that are enabled. Raises M_BAD_JSON, M_INVALID_PARAM."""
        found = []
        for name, parameters in asked.items():
            extension = self._extensions.get(name)
            scope = None if extension is None else parse_scope(parameters)
            if extension is not None and scope is not None:
                found.append(AskedExtension(extension, extension.check(parameters), scope))
        return found

    async def _reach(self, pos: Pos | None) -> StreamToken | None:
        """Return the token of a `pos` once this process has applied everything behind it."""
        if pos is None:
            return None
        try:
            return await self._tokens.reach(pos.token)
        except MatrixError as error:
            raise unknown_pos() from error

    async def _since(self, ask: Ask, token: StreamToken | None, number: int) -> Since:
        if token is None:
            return Since(None, None, ConnectionState())
        state = await self._connections.state(ask.connection, number, ask.user)
        assert ask.request.pos is not None
        settled = ask.connection.settled_for(state, ask.shape)
        return Since(token, ask.user.seq_of(ask.request.pos), state, settled)

    async def _look_until_news(self, ask: Ask, since: Since) -> Look:
        """Look again whenever the user has news, until there is something to tell or the time is over."""
        initial = since.token is None
        count, seconds = self._metrics.answers("initial" if initial else "incremental")
        deadline = self._clock.monotonic_s() + ask.request.timeout_s
        counts: Mapping[str, int] | None = None if initial else ask.connection.counts_of(ask.request.lists)
        while True:
            seen = ask.user.version
            async with self._turns.turn(ask.user.user_id) if initial else nullcontext():
                with seconds.time():
                    look = await self._engine.look(ask, since)
            if initial or not look.empty or (counts is not None and counts != look.answer.counts):
                break
            counts, since = look.answer.counts, look.reached
            if not await self._notifier.wait(
                ask.user, seen, deadline - self._clock.monotonic_s(), ask.device_id
            ):  # fmt: skip
                break
        ask.connection.note_counts(ask.request.lists, look.answer.counts)
        count.inc()
        return look


def _own_pos(text: str, owner: str) -> Pos:
    pos = parse_pos(text)
    if pos is None or pos.owner != owner:
        raise unknown_pos()
    return pos


def _format(owner: str, number: int, token: StreamToken | None) -> str:
    assert token is not None
    return format_pos(Pos(owner, number, format_sync_token(token)))


def _encode(pos: str, answer: SlidingAnswer, codec: Codec) -> bytes:
    return orjson.dumps(
        {
            "pos": pos,
            "lists": {name: {"count": count} for name, count in answer.counts.items()},
            "rooms": {room_id: codec.room_fields(room) for room_id, room in answer.rooms.items()},
            "extensions": answer.extensions,
        }
    )
