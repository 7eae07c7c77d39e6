"""Who is asking: access tokens to requesters, cached in every worker and forgotten by the stream `sessions`.

Spec: client-server API, "Using access tokens", "Soft logout", "Refreshing access tokens".
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.cache.byte_budget import ByteBudgetCache
from shared.core.errors import MatrixError, Unavailable
from shared.http.request import Request, Requester
from shared.runtime.clock import Clock
from shared.storage.pool import Database
from shared.storage.tokens import LastSeen, Session, end_predecessors, get_session, hash_token, set_last_seen

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARS = 4096  # ours have some 50; those of external services may be long
_ENTRY_BYTES = 800  # a session, its requester and both index entries, measured by tracemalloc; texts come on top
_LAST_SEEN_EVERY_S = 30.0
_LAST_SEEN_BATCH = 500
_MAX_LAST_SEEN = 50_000  # devices waiting to be stored; more are dropped: only a display value is lost


class SessionChange(Protocol):
    """A row of the stream `sessions`; device_id None: all of the user's devices."""

    @property
    def user_id(self) -> str: ...
    @property
    def device_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Known:
    requester: Requester
    expires_ms: int | None
    refreshable: bool


@dataclass(slots=True)
class _Load:
    """A look-up under way. changes: (user, device) named by `sessions` rows since it began."""

    task: "asyncio.Task[_Known | None]"
    changes: set[tuple[str, str | None]] = field(default_factory=set)


class TokenAuthenticator:
    """The HTTP server's `Authenticator`.

    budget_bytes: of the cache; `apply_sessions` is its invalidation. may_trust_cache: False while this process may
    have missed log-outs (it cannot reach the database): then each token is looked up, or the request fails with 503.
    """

    def __init__(
        self, database: Database, clock: Clock, budget_bytes: int,
        may_trust_cache: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._database = database
        self._clock = clock
        self._may_trust_cache = may_trust_cache
        self._cache: ByteBudgetCache[bytes, _Known] = ByteBudgetCache(budget_bytes)
        self._by_user: dict[str, set[bytes]] = {}
        self._loads: dict[bytes, _Load] = {}
        self._last_seen: dict[tuple[str, str], LastSeen] = {}

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        """Return who holds the token.

        Raises MatrixError 401: M_MISSING_TOKEN; M_UNKNOWN_TOKEN, with `soft_logout: true` when the token has expired
        and was issued beside a refresh token.
        """
        if token is None:
            raise MatrixError("M_MISSING_TOKEN", "Missing access token", 401)
        if not token or len(token) > MAX_TOKEN_CHARS:
            raise _unknown_token(soft_logout=False)
        token_hash = hash_token(token)
        known = self._cache.get(token_hash) if self._may_trust_cache() else None
        if known is None:
            known = await self._load_once(token_hash)
        if known is None:
            raise _unknown_token(soft_logout=False)
        now_ms = self._clock.now_ms()
        if known.expires_ms is not None and known.expires_ms <= now_ms:
            raise _unknown_token(soft_logout=known.refreshable)
        self._note_use(known.requester, request.client_address, now_ms)
        return known.requester

    def apply_sessions(self, rows: Sequence[SessionChange]) -> None:
        """Forget what is cached of these users' devices. Listener of the stream `sessions`."""
        for row in rows:
            for load in self._loads.values():
                load.changes.add((row.user_id, row.device_id))
            for token_hash in list(self._by_user.get(row.user_id, ())):
                known = self._cache.get(token_hash)
                if known is None or row.device_id is None or known.requester.device_id == row.device_id:
                    self._forget(token_hash, row.user_id)

    async def run(self) -> None:
        """Store when devices were last seen, every half minute. Runs until cancelled."""
        while True:
            await asyncio.sleep(_LAST_SEEN_EVERY_S)
            await self.store_last_seen()

    async def store_last_seen(self) -> None:
        """Store what was noted since the last time; while the database is away it is kept for the next."""
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

    def statistics(self) -> dict[str, int]:
        return {**self._cache.statistics(), "loading": len(self._loads), "last_seen": len(self._last_seen)}

    async def _load_once(self, token_hash: bytes) -> _Known | None:
        load = self._loads.get(token_hash)
        if load is None:
            load = _Load(asyncio.get_running_loop().create_task(self._load(token_hash)))
            self._loads[token_hash] = load
        # Shielded: a client that goes away must not fail the others who wait for the same look-up.
        return await asyncio.shield(load.task)

    async def _load(self, token_hash: bytes) -> _Known | None:
        try:
            session = await get_session(self._database, token_hash)
            if session is None or session.deactivated:
                return None
            expired = session.expires_ms is not None and session.expires_ms <= self._clock.now_ms()
            if session.has_predecessor and session.refresh_hash is not None and not expired:
                # First use of the new pair: from now on the old refresh token is worth nothing.
                await end_predecessors(self._database, session.refresh_hash)
            known = _known(session, token_hash)
            changes = self._loads[token_hash].changes
            device = session.device_id
            if (session.user_id, None) not in changes and (session.user_id, device) not in changes:
                self._remember(token_hash, known)
            return known
        finally:
            del self._loads[token_hash]

    def _remember(self, token_hash: bytes, known: _Known) -> None:
        user_id = known.requester.user_id
        self._by_user.setdefault(user_id, set()).add(token_hash)
        size = _ENTRY_BYTES + len(user_id) + len(known.requester.device_id or "")
        for gone in self._cache.put(token_hash, known, size):
            self._drop_from_index(gone.requester.token_hash, gone.requester.user_id)

    def _forget(self, token_hash: bytes, user_id: str) -> None:
        self._cache.pop(token_hash)
        self._drop_from_index(token_hash, user_id)

    def _drop_from_index(self, token_hash: bytes, user_id: str) -> None:
        hashes = self._by_user.get(user_id)
        if hashes is not None:
            hashes.discard(token_hash)
            if not hashes:
                del self._by_user[user_id]

    def _note_use(self, requester: Requester, address: str, now_ms: int) -> None:
        if requester.device_id is None or len(self._last_seen) >= _MAX_LAST_SEEN:
            return
        key = requester.user_id, requester.device_id
        self._last_seen[key] = LastSeen(*key, now_ms, address)


def _known(session: Session, token_hash: bytes) -> _Known:
    requester = Requester(
        session.user_id,
        session.device_id,
        token_hash,
        is_guest=session.kind == "guest",
        is_admin=session.is_admin,
    )
    return _Known(requester, session.expires_ms, session.refresh_hash is not None)


def _unknown_token(*, soft_logout: bool) -> MatrixError:
    extra = {"soft_logout": True} if soft_logout else {}
    return MatrixError("M_UNKNOWN_TOKEN", "The access token is not recognised or has expired", 401, extra)
