"""The keys of other servers: from memory, the database, the server itself, then from notaries.

Spec: server-server API, "Retrieving server keys".
"""

import asyncio
import logging
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from shared.cache.byte_budget import ByteBudgetCache
from shared.core.errors import MatrixError, RemoteServerError, SignatureError
from shared.core.event_checks.signatures import Keys, RequiredSignature, VerifyKey
from shared.core.federation.published_keys import PublishedKeys, parse_published_keys
from shared.core.identifiers import ServerName
from shared.federation.requests import ServerRequests
from shared.http.outside.client import OutsideLimits
from shared.metrics.federation import FederationMetrics
from shared.runtime.clock import Clock
from shared.runtime.fair_shares import FairShares
from shared.storage.engine.pool import Database
from shared.storage.federation import server_keys as storage

logger = logging.getLogger(__name__)

_LIMITS = OutsideLimits(connect_s=10.0, first_byte_s=15.0, total_s=25.0, body_bytes=256 * 1024)
_NOTARY_LIMITS = OutsideLimits(connect_s=10.0, first_byte_s=20.0, total_s=30.0, body_bytes=4 << 20)
#: Servers in one question to a notary.
_MOST_PER_QUESTION = 100
#: Fetches under way at a time, of all askers and of one; and those of one asker that wait.
_MOST_FETCHES = 100
_MOST_FETCHES_OF_ONE = 8
_MOST_WAITING_OF_ONE = 40
#: A fetch that has waited for its turn for so long has no asker any more.
_PATIENCE_S = 15.0
_FIRST_RETRY_MS = 60_000
_LONGEST_RETRY_MS = 24 * 3_600_000
#: A server that just sent us something is asked in spite of its failures, but not more often.
_HEARD_RETRY_MS = 5_000
#: Measured: a key with its two names and its place in the cache.
_KEY_BYTES = 700

_Pair = tuple[ServerName, str]


class KeyRing:
    """Finds the keys with which events and requests are verified.

    own: our own keys, by key id.
    notaries: servers that are asked for the keys of servers that do not answer.
    cache_bytes: the memory for keys.
    """

    def __init__(
        self,
        server_name: ServerName,
        own: Mapping[str, VerifyKey],
        database: Database,
        requests: ServerRequests,
        clock: Clock,
        metrics: FederationMetrics,
        *,
        notaries: Sequence[ServerName],
        cache_bytes: int,
    ) -> None:
        self._server_name = server_name
        self._own = {(server_name, key_id): key for key_id, key in own.items()}
        self._database = database
        self._requests = requests
        self._clock = clock
        self._metrics = metrics
        self._notaries = [name for name in notaries if name != server_name]
        self._cache: ByteBudgetCache[_Pair, VerifyKey] = ByteBudgetCache(cache_bytes)
        self._fetches: dict[ServerName, asyncio.Task[None]] = {}
        self._turns = FairShares(
            "look-ups of keys",
            _MOST_FETCHES,
            per_user=_MOST_FETCHES_OF_ONE,
            waiting_per_user=_MOST_WAITING_OF_ONE,
            patience_s=_PATIENCE_S,
        )

    async def keys_for(
        self,
        required: Collection[RequiredSignature],
        *,
        timeout_s: float,
        asker: str,
        heard_from: Collection[ServerName] = (),
    ) -> Keys:
        """Return (server, key id) -> key, of those keys that could be had in time.

        required: the signatures to verify. A key that was not valid at the required time is fetched again.
        asker: the client address or server because of which the keys are needed. Each has a share of the fetches.
        heard_from: servers that just sent us something, so they are up.
        A fetch that takes longer goes on, and its result is there for the next caller.
        """
        found: dict[_Pair, VerifyKey] = dict(self._own)
        wanted = {(each.server, key_id) for each in required for key_id in each.key_ids} - found.keys()
        unknown = set()
        for pair in wanted:
            key = self._cache.get(pair)
            if key is None:
                unknown.add(pair)
            else:
                found[pair] = key
        if unknown:
            found |= self._remember(await storage.get_keys(self._database, unknown))
        lacking = _lacking(required, found)
        if not lacking:
            return _as_keys(found)
        try:
            async with asyncio.timeout(timeout_s):
                await self._fetch_all([each.server for each in lacking], heard_from, asker)
                found |= await self._known(lacking)
                lacking = _lacking(lacking, found)
                if lacking and self._notaries:
                    await self._ask_notaries(lacking)
                    found |= await self._known(lacking)
        except TimeoutError:
            logger.info("The keys of %s could not be had in time", ", ".join(sorted({r.server for r in lacking})[:10]))
        return _as_keys(found)

    async def published(self, servers: Sequence[ServerName], *, timeout_s: float, asker: str) -> None:
        """Fetch the keys of these servers into the database, for somebody who asks us as a notary.

        asker: their address. They have a share of the fetches, so some servers may be left out.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._fetch_all(servers, (), asker)
        except TimeoutError:
            logger.info("Not all of the keys that a notary was asked for could be had in time")

    async def fetch(self, server: ServerName) -> PublishedKeys:
        """Ask a server for its keys, and store them. Raises RemoteServerError, also for keys that are not valid."""
        answer = await self._requests.ask(server, "GET", "/_matrix/key/v2/server", signed=False, limits=_LIMITS)
        return await self._take(answer, server)

    async def close(self) -> None:
        for task in self._fetches.values():
            task.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)

    async def _known(self, required: Iterable[RequiredSignature]) -> dict[_Pair, VerifyKey]:
        pairs = {(each.server, key_id) for each in required for key_id in each.key_ids}
        return self._remember(await storage.get_keys(self._database, pairs))

    def _remember(self, keys: dict[_Pair, VerifyKey]) -> dict[_Pair, VerifyKey]:
        for pair, key in keys.items():
            self._cache.put(pair, key, _KEY_BYTES)
        return keys

    async def _fetch_all(self, names: Iterable[ServerName], heard: Collection[ServerName], asker: str) -> None:
        """Ask each server for its keys, unless it failed not long ago. Equal questions at the same time are one."""
        servers = set(names) - {self._server_name}
        failed = await storage.get_key_failures(self._database, servers)
        now_ms = self._clock.now_ms()
        tasks = []
        for server in servers:
            failure = failed.get(server)
            if failure is not None:
                soon_ms = failure.failed_ms + _HEARD_RETRY_MS if server in heard else failure.retry_at_ms
                if min(soon_ms, failure.retry_at_ms) > now_ms:
                    continue
            task = self._fetches.get(server)
            if task is None:
                failures = 0 if failure is None else failure.failures
                task = asyncio.create_task(self._fetch_in_turn(server, failures, asker))
                self._fetches[server] = task
                task.add_done_callback(partial(self._forget, server))
            tasks.append(task)
        if tasks:
            await asyncio.wait(tasks)

    def _forget(self, server: ServerName, _: "asyncio.Task[None]") -> None:
        self._fetches.pop(server, None)

    async def _fetch_in_turn(self, server: ServerName, failures: int, asker: str) -> None:
        try:
            await self._turns.take(asker)
        except MatrixError:
            # The asker wants too much. That says nothing about the server, so nothing is stored.
            self._metrics.key_fetches.labels("server", "refused").inc()
            return
        try:
            await self._fetch_or_note(server, failures)
        finally:
            self._turns.give(asker)

    async def _fetch_or_note(self, server: ServerName, failures: int) -> None:
        try:
            await self.fetch(server)
            self._metrics.key_fetches.labels("server", "ok").inc()
            return
        except RemoteServerError as error:
            self._metrics.key_fetches.labels("server", "failed").inc()
            logger.debug("The keys of %s could not be had: %s", server, error)
        now_ms = self._clock.now_ms()
        failure = storage.KeyFailure(
            failures=failures + 1, failed_ms=now_ms, retry_at_ms=now_ms + _pause_ms(failures + 1)
        )
        await storage.store_key_failure(self._database, server, failure)

    async def _ask_notaries(self, lacking: Sequence[RequiredSignature]) -> None:
        """Ask one notary after the other for what is still lacking."""
        now_ms = self._clock.now_ms()
        for notary in self._notaries:
            questions: dict[str, dict[str, dict[str, int]]] = {}
            for each in lacking[:_MOST_PER_QUESTION]:
                least = {"minimum_valid_until_ts": now_ms if each.valid_at_ts is None else each.valid_at_ts}
                questions.setdefault(each.server, {}).update(dict.fromkeys(each.key_ids, least))
            try:
                answer = await self._requests.ask(
                    notary,
                    "POST",
                    "/_matrix/key/v2/query",
                    {"server_keys": questions},
                    signed=False,
                    limits=_NOTARY_LIMITS,
                )
            except RemoteServerError as error:
                self._metrics.key_fetches.labels("notary", "failed").inc()
                logger.info("The notary %s could not be asked: %s", notary, error)
                continue
            self._metrics.key_fetches.labels("notary", "ok").inc()
            await self._take_from_notary(answer, questions.keys())
            lacking = _lacking(lacking, await self._known(lacking))
            if not lacking:
                return

    async def _take_from_notary(self, answer: Any, asked: Collection[str]) -> None:
        """Store the answers that are signed by the servers themselves. The notary's word alone is worth nothing."""
        entries = answer.get("server_keys") if isinstance(answer, dict) else None
        for entry in (entries if isinstance(entries, list) else [])[: 2 * _MOST_PER_QUESTION]:
            name = entry.get("server_name") if isinstance(entry, dict) else None
            if isinstance(name, str) and name in asked:
                try:
                    await self._take(entry, ServerName(name))
                except RemoteServerError as error:
                    logger.info("A notary's answer about %s is not valid: %s", name, error)

    async def _take(self, answer: Any, server: ServerName) -> PublishedKeys:
        now_ms = self._clock.now_ms()
        try:
            published = parse_published_keys(answer, server, now_ms)
        except SignatureError as error:
            raise RemoteServerError(str(error)) from error
        await storage.store_keys(self._database, published, now_ms)
        return published


def _as_keys(found: Mapping[_Pair, VerifyKey]) -> Keys:
    return {(str(server), key_id): key for (server, key_id), key in found.items()}


def _lacking(required: Iterable[RequiredSignature], found: Mapping[_Pair, VerifyKey]) -> list[RequiredSignature]:
    """Return the signatures for which no key is usable."""

    def is_usable(each: RequiredSignature, key_id: str) -> bool:
        key = found.get((each.server, key_id))
        return key is not None and (each.valid_at_ts is None or key.was_valid_at(each.valid_at_ts))

    return [each for each in required if each.key_ids and not any(is_usable(each, key_id) for key_id in each.key_ids)]


def _pause_ms(failures: int) -> int:
    """Return the time until the next try after some failures in a row."""
    pause_ms: int = min(_FIRST_RETRY_MS * 2 ** min(failures - 1, 20), _LONGEST_RETRY_MS)
    return round(pause_ms * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
