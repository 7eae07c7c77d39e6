"""Finding the address of a server. Spec: server-server API, "Resolving server names".

Answers are cached: those of `.well-known` and the DNS for as long as they say, failures for a minute and more.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urljoin, urlsplit

from shared.cache.byte_budget import ByteBudgetCache
from shared.core.errors import RemoteServerError
from shared.core.federation.server_discovery import (
    SRV_SERVICES,
    WELL_KNOWN_MAX_BYTES,
    WELL_KNOWN_PATH,
    Endpoint,
    SrvRecord,
    default_endpoint,
    direct_endpoint,
    no_well_known_lifetime_s,
    parse_well_known,
    srv_endpoints,
    well_known_lifetime_s,
)
from shared.core.identifiers import ServerName
from shared.federation.srv_records import SrvAnswer, SrvResolver
from shared.http.outside.client import OutsideClient, OutsideLimits, OutsideResponse
from shared.runtime.clock import Clock

logger = logging.getLogger(__name__)

_LIMITS = OutsideLimits(connect_s=5.0, first_byte_s=10.0, total_s=15.0, body_bytes=WELL_KNOWN_MAX_BYTES)
_MOST_REDIRECTS = 5
_CACHE_BYTES = 4 << 20
#: Keys and values are names of at most 255 characters, beside the objects that hold them.
_ENTRY_BYTES = 1_500
#: Told step by step, for `skep federation check`.
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _WellKnown:
    """A cached answer. server: None if there is none. failures: in a row."""

    server: ServerName | None
    until_s: float
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Srv:
    answer: SrvAnswer
    until_s: float


class ServerDiscovery:
    """Finds servers. Equal questions at the same time are asked once."""

    def __init__(self, client: OutsideClient, resolver: SrvResolver, clock: Clock) -> None:
        self._client = client
        self._resolver = resolver
        self._clock = clock
        self._well_known: ByteBudgetCache[ServerName, _WellKnown] = ByteBudgetCache(_CACHE_BYTES)
        self._srv: ByteBudgetCache[tuple[str, str], _Srv] = ByteBudgetCache(_CACHE_BYTES)
        self._asking: dict[ServerName, asyncio.Task[_WellKnown]] = {}

    async def endpoints(self, name: ServerName, tell: Tell = lambda _: None) -> Sequence[Endpoint]:
        """Return the addresses of a server in the order in which to try them, one or more.

        tell: gets a sentence about each step.
        Raises RemoteServerError for a name that cannot be the address of a server.
        """
        direct = _direct(name)
        if direct is not None:
            tell(f"{name} names its address: {direct.host} port {direct.port}")
            return (direct,)
        delegated = await self._delegated(name, tell)
        if delegated is not None:
            direct = _direct(delegated)
            if direct is not None:
                return (direct,)
            name = delegated
        for service in SRV_SERVICES:
            records = (await self._records(service, name)).records
            tell(f"SRV records of {service}.{name}: {_told(records)}")
            if endpoints := srv_endpoints(name, records, random.random):
                return endpoints
        return (default_endpoint(name),)

    async def _delegated(self, name: ServerName, tell: Tell) -> ServerName | None:
        cached = self._well_known.get(name)
        if cached is None or cached.until_s <= self._clock.monotonic_s():
            asking = self._asking.get(name)
            if asking is None:
                asking = asyncio.create_task(self._ask_well_known(name, cached, tell))
                self._asking[name] = asking
                asking.add_done_callback(lambda _: self._asking.pop(name, None))
            cached = await asyncio.shield(asking)
        if cached.server is not None:
            tell(f"https://{name}{WELL_KNOWN_PATH} names {cached.server}")
        return cached.server

    async def _ask_well_known(self, name: ServerName, before: _WellKnown | None, tell: Tell) -> _WellKnown:
        now_s = self._clock.monotonic_s()
        try:
            answer = await self._fetch(f"https://{name}{WELL_KNOWN_PATH}")
            if answer.status != 200:
                raise RemoteServerError(f"status {answer.status}")
            server = parse_well_known(answer.body)
        except (RemoteServerError, ValueError) as error:
            tell(f"https://{name}{WELL_KNOWN_PATH}: none ({error})")
            failures = 1 if before is None else before.failures + 1
            found = _WellKnown(server=None, until_s=now_s + no_well_known_lifetime_s(failures), failures=failures)
            if before is not None and before.server is not None and failures <= 3:
                # An outage of the web server does not move the Matrix server.
                found = replace(found, server=before.server)
        else:
            age = answer.headers.get("age", "0")
            lifetime_s = well_known_lifetime_s(answer.headers, float(age) if age.isdecimal() else 0.0)
            found = _WellKnown(server=server, until_s=now_s + lifetime_s)
        self._well_known.put(name, found, _ENTRY_BYTES)
        return found

    async def _fetch(self, url: str) -> OutsideResponse:
        """Return the answer at the end of the redirects. Each of them is checked as any address is."""
        for _ in range(_MOST_REDIRECTS):
            answer = await self._client.request("GET", url, limits=_LIMITS)
            location = answer.headers.get("location")
            if answer.status not in (301, 302, 303, 307, 308) or location is None:
                return answer
            url = urljoin(url, location)
            if urlsplit(url).scheme != "https":
                raise RemoteServerError("a redirect to something else than https")
        raise RemoteServerError(f"more than {_MOST_REDIRECTS} redirects")

    async def _records(self, service: str, name: ServerName) -> SrvAnswer:
        cached = self._srv.get((service, name))
        if cached is not None and cached.until_s > self._clock.monotonic_s():
            return cached.answer
        answer = await self._resolver.look_up(service, name)
        size = _ENTRY_BYTES * (1 + len(answer.records))
        self._srv.put((service, name), _Srv(answer=answer, until_s=self._clock.monotonic_s() + answer.ttl_s), size)
        return answer


def _direct(name: ServerName) -> Endpoint | None:
    try:
        return direct_endpoint(name)
    except ValueError as error:
        raise RemoteServerError(str(error)) from error


def _told(records: Sequence[SrvRecord]) -> str:
    return ", ".join(f"{each.target}:{each.port}" for each in records) or "none"
