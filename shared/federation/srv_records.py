"""Look-ups of SRV records in the DNS."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.resolver

from shared.core.federation.server_discovery import SrvRecord

logger = logging.getLogger(__name__)

_LIMIT_S = 4.0
_MOST_RECORDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvAnswer:
    """The records of a service, empty if there are none. ttl_s: how long the answer is valid."""

    records: tuple[SrvRecord, ...]
    ttl_s: float


class SrvResolver:
    """nameservers: addresses to ask, with their port; None: those of the operating system."""

    def __init__(self, nameservers: Sequence[tuple[str, int]] | None = None) -> None:
        try:
            self._resolver: dns.asyncresolver.Resolver | None = dns.asyncresolver.Resolver(
                configure=nameservers is None
            )
        except (dns.resolver.NoResolverConfiguration, OSError):
            logger.info("The host has no DNS resolver: no SRV records are looked up")
            self._resolver = None
        if self._resolver is not None and nameservers is not None:
            self._resolver.nameservers = [host for host, _ in nameservers]
            self._resolver.nameserver_ports = dict(nameservers)

    async def look_up(self, service: str, name: str) -> SrvAnswer:
        """Return the records of a service, such as "_matrix-fed._tcp", of a name.

        A look-up that is refused or gets no answer in time is as good as "none", but is repeated sooner.
        """
        if self._resolver is None:
            return SrvAnswer(records=(), ttl_s=3600.0)
        try:
            async with asyncio.timeout(_LIMIT_S + 1):
                found = await self._resolver.resolve(f"{service}.{name}.", "SRV", lifetime=_LIMIT_S, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return SrvAnswer(records=(), ttl_s=3600.0)
        except (dns.exception.DNSException, OSError, TimeoutError, ValueError) as error:
            logger.debug("No SRV records of %s.%s: %s", service, name, error)
            return SrvAnswer(records=(), ttl_s=60.0)
        records = tuple(
            SrvRecord(
                priority=each.priority,
                weight=each.weight,
                target=each.target.to_text(omit_final_dot=True).rstrip("."),
                port=each.port,
            )
            for each in list(found)[:_MOST_RECORDS]
        )
        return SrvAnswer(records=records, ttl_s=min(max(float(found.rrset.ttl if found.rrset else 0), 60.0), 3600.0))
