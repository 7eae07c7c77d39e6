"""Authentication: access tokens to requesters, cached in every worker and invalidated by the stream `sessions`.

One second after a token was revoked no process accepts it, even if replication fails: a cached entry counts only while
this process knows that it has applied every log-out until 0.8 s ago. While tokens are in use, it reads the stream's
newest rows several times a second, with one statement for all tokens. If that fails, each token is looked up, or the
request fails with 503.

Spec: client-server API, "Using access tokens", "Soft logout", "Refreshing access tokens".
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from shared.cache.byte_budget import ByteBudgetCache
from shared.cache.sizes import optional_size, text_size
from shared.core.errors import MatrixError, SkepError, Unavailable
from shared.core.identifiers import UserId
from shared.core.rows import SessionRow
from shared.http.request import Request, Requester
from shared.operations.token_guesses import TokenGuesses
from shared.runtime.clock import Clock
from shared.storage.accounts.tokens import LastSeen, Session, end_predecessors, get_session, hash_token, set_last_seen
from shared.storage.engine.pool import Database

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARS = 4096  # this server's tokens have some 50; those of external services may be long
_ENTRY_BYTES = 800  # a session, its requester and both index entries, measured by tracemalloc, without their texts
#: How long cached knowledge of a token counts, and how often it is confirmed. A request accepted at the last moment has
#: the rest of the second to be carried out.
_TRUST_S = 0.8
_READ_EVERY_S = 0.3
_IN_USE_S = 5.0  # tokens that were last used this long ago are no longer confirmed
_LAST_SEEN_EVERY_S = 30.0
_LAST_SEEN_BATCH = 500
#: Of last uses of devices that wait to be stored. Further ones are dropped, which loses only a display value.
_LAST_SEEN_BUDGET_BYTES = 16 << 20
_LAST_SEEN_BYTES = 330  # without the ids


@dataclass(frozen=True, slots=True)
class _Known:
    """A cached token. asked_s: the monotonic time at which its look-up began."""

    requester: Requester
    expires_ms: int | None
    refreshable: bool
    asked_s: float


@dataclass(slots=True, eq=False)
class _Load:
    """A look-up under way. changes: (user, device) of the `sessions` rows since it began."""

    began_s: float
    task: "asyncio.Task[_Known | None] | None" = None
    changes: set[tuple[str, str | None]] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Held:
    """A request that waits for a long time. ended: the error with which it was cancelled."""

    requester: Requester
    task: "asyncio.Task[Any]"
    ended: SkepError | None = None


class TokenAuthenticator:
    """The HTTP server's `Authenticator`.

    budget_bytes: of the cache, which `apply_sessions` invalidates.
    guesses: the unknown tokens that came recently, by address.
    read_changes: reads the rows that replication has not brought yet from Postgres, and passes them to
        `apply_sessions`. Raises Unavailable.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        budget_bytes: int,
        guesses: TokenGuesses,
        read_changes: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._clock = clock
        self._guesses = guesses
        self._read_changes = read_changes
        #: All changes committed before this time have been applied.
        self._current_s = float("-inf")
        self._used_s = float("-inf")
        self._held: dict[str, set[_Held]] = {}
        self._rechecks: set[asyncio.Task[None]] = set()
        self._cache: ByteBudgetCache[bytes, _Known] = ByteBudgetCache(budget_bytes)
        self._by_user: dict[str, set[bytes]] = {}
        self._loads: dict[bytes, _Load] = {}  # the latest of each token
        self._running: set[_Load] = set()
        self._last_seen: dict[tuple[str, str], LastSeen] = {}
        self._last_seen_bytes = 0

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        """Return the requester that a token belongs to.

        Raises MatrixError 401: M_MISSING_TOKEN, or M_UNKNOWN_TOKEN, with `soft_logout: true` if the token has expired
        and was issued with a refresh token. After too many unknown tokens from one address, M_LIMIT_EXCEEDED (429).
        """
        if token is None:
            raise MatrixError("M_MISSING_TOKEN", "Missing access token", 401)
        if not token or len(token) > MAX_TOKEN_CHARS:
            raise _unknown_token(soft_logout=False)
        token_hash = hash_token(token)
        if self._cache.get(token_hash) is None:
            self._guesses.check(request.client_address)
        try:
            known = await self._accepted(token_hash)
        except MatrixError:
            self._guesses.failed(request.client_address)
            raise
        self._note_use(known.requester, request.client_address, self._clock.now_ms())
        return known.requester

    @asynccontextmanager
    async def hold(self, requester: Requester) -> AsyncIterator[None]:
        """Run the body, which may wait for a long time, while the requester's token is valid. Check it at the end.

        Raises the errors of `authenticate`, soon after the token was revoked, or in place of the answer.
        """
        task = asyncio.current_task()
        assert task is not None
        held = _Held(requester, task)
        self._held.setdefault(requester.user_id, set()).add(held)
        try:
            yield
            await self._accepted(requester.token_hash)
        except asyncio.CancelledError:
            if held.ended is None:
                raise
            task.uncancel()
            raise held.ended from None
        finally:
            others = self._held[requester.user_id]
            others.discard(held)
            if not others:
                del self._held[requester.user_id]

    def apply_sessions(self, rows: Sequence[SessionRow]) -> None:
        """Remove the cached tokens of these users' devices. This is the listener of the stream `sessions`."""
        for row in rows:
            for load in self._running:
                load.changes.add((row.user_id, row.device_id))
            for token_hash in list(self._by_user.get(row.user_id, ())):
                known = self._cache.get(token_hash)
                if known is None or row.device_id is None or known.requester.device_id == row.device_id:
                    self._forget(token_hash, row.user_id)
            for held in self._held.get(row.user_id, ()):
                if row.device_id is None or held.requester.device_id == row.device_id:
                    check = asyncio.get_running_loop().create_task(self._recheck(held))
                    self._rechecks.add(check)
                    check.add_done_callback(self._rechecks.discard)

    async def watch(self) -> None:
        """Make sure that no log-out is missed while tokens are in use. Runs until cancelled."""
        while True:
            began_s = self._clock.monotonic_s()
            if self._held or began_s - self._used_s < _IN_USE_S:
                with suppress(Unavailable, TimeoutError):
                    async with asyncio.timeout(_TRUST_S):
                        await self._read_changes()
                    self._current_s = began_s
            await asyncio.sleep(_READ_EVERY_S)

    async def run(self) -> None:
        """Store the times at which devices were last seen, every half minute. Runs until cancelled."""
        while True:
            await asyncio.sleep(_LAST_SEEN_EVERY_S)
            await self.store_last_seen()

    async def store_last_seen(self) -> None:
        """Store the times noted since the last call. While the database is down they are kept for the next call."""
        pending = list(self._last_seen.values())
        for start in range(0, len(pending), _LAST_SEEN_BATCH):
            batch = pending[start : start + _LAST_SEEN_BATCH]
            try:
                await set_last_seen(self._database, batch)
            except Unavailable:
                return
            for seen in batch:
                if self._last_seen.get((seen.user_id, seen.device_id)) is seen:
                    del self._last_seen[seen.user_id, seen.device_id]
                    self._last_seen_bytes -= _last_seen_size(seen.user_id, seen.device_id)

    async def _accepted(self, token_hash: bytes) -> _Known:
        """Return the token's state of less than a second ago. Raises M_UNKNOWN_TOKEN, Unavailable."""
        now_s = self._used_s = self._clock.monotonic_s()
        known = self._cache.get(token_hash)
        if known is None or now_s - max(self._current_s, known.asked_s) >= _TRUST_S:
            known = await self._load_once(token_hash)
        if known is None:
            raise _unknown_token(soft_logout=False)
        if known.expires_ms is not None and known.expires_ms <= self._clock.now_ms():
            raise _unknown_token(soft_logout=known.refreshable)
        return known

    async def _recheck(self, held: _Held) -> None:
        """Cancel a waiting request if its token is not valid any more, after a change of the device's sessions."""
        try:
            await self._accepted(held.requester.token_hash)
        except SkepError as error:
            if held in self._held.get(held.requester.user_id, ()):
                held.ended = error
                held.task.cancel()

    async def _load_once(self, token_hash: bytes) -> _Known | None:
        load = self._loads.get(token_hash)
        now_s = self._clock.monotonic_s()
        # A look-up must not have begun before the latest known log-out, or some time ago.
        if load is None or load.changes or now_s - load.began_s > _READ_EVERY_S:
            load = self._loads[token_hash] = _Load(now_s)
            self._running.add(load)
            load.task = asyncio.get_running_loop().create_task(self._load(token_hash, load))
        assert load.task is not None
        # Shielded, so that a client that disconnects does not fail others that wait for the same look-up.
        return await asyncio.shield(load.task)

    async def _load(self, token_hash: bytes, load: _Load) -> _Known | None:
        try:
            session = await get_session(self._database, token_hash)
            if session is None or session.deactivated:
                return None
            expired = session.expires_ms is not None and session.expires_ms <= self._clock.now_ms()
            if session.has_predecessor and session.refresh_hash is not None and not expired:
                # The first use of the new pair of tokens revokes the old refresh token.
                await end_predecessors(self._database, session.refresh_hash)
            known = _known(session, token_hash, load.began_s)
            device = session.device_id
            if (session.user_id, None) not in load.changes and (session.user_id, device) not in load.changes:
                self._remember(token_hash, known)
            return known
        finally:
            self._running.discard(load)
            if self._loads.get(token_hash) is load:
                del self._loads[token_hash]

    def _remember(self, token_hash: bytes, known: _Known) -> None:
        user_id = known.requester.user_id
        self._by_user.setdefault(user_id, set()).add(token_hash)
        size = _ENTRY_BYTES + optional_size(user_id, known.requester.device_id)
        for gone in self._cache.put(token_hash, known, size):
            self._drop_from_index(gone.requester.token_hash, gone.requester.user_id)

    def _forget(self, token_hash: bytes, user_id: UserId) -> None:
        self._cache.pop(token_hash)
        self._drop_from_index(token_hash, user_id)

    def _drop_from_index(self, token_hash: bytes, user_id: UserId) -> None:
        hashes = self._by_user.get(user_id)
        if hashes is not None:
            hashes.discard(token_hash)
            if not hashes:
                del self._by_user[user_id]

    def _note_use(self, requester: Requester, address: str, now_ms: int) -> None:
        if requester.device_id is None:
            return
        key = requester.user_id, requester.device_id
        if key not in self._last_seen:
            if self._last_seen_bytes >= _LAST_SEEN_BUDGET_BYTES:
                return
            self._last_seen_bytes += _last_seen_size(*key)
        self._last_seen[key] = LastSeen(*key, now_ms, address)


def _known(session: Session, token_hash: bytes, asked_s: float) -> _Known:
    requester = Requester(
        session.user_id,
        session.device_id,
        token_hash,
        is_guest=session.kind == "guest",
        is_admin=session.is_admin,
        device_created_ms=session.device_created_ms or 0,
    )
    return _Known(requester, session.expires_ms, session.refresh_hash is not None, asked_s)


def _last_seen_size(user_id: str, device_id: str) -> int:
    return _LAST_SEEN_BYTES + text_size(user_id) + text_size(device_id)


def _unknown_token(*, soft_logout: bool) -> MatrixError:
    extra = {"soft_logout": True} if soft_logout else {}
    return MatrixError("M_UNKNOWN_TOKEN", "The access token is unknown or has expired", 401, extra)
