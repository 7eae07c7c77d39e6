"""Everything that a process needs to talk to other servers, made from the configuration in one place."""

from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from shared.config.sections import Config
from shared.core.addresses import AddressRules
from shared.core.event_checks.signatures import VerifyKey
from shared.core.identifiers import ServerName
from shared.core.signing.keys import SigningKey, parse_signing_key
from shared.federation.discovery import ServerDiscovery
from shared.federation.key_ring import KeyRing
from shared.federation.requests import ServerRequests
from shared.federation.srv_records import SrvResolver
from shared.http.outside.client import OutsideClient
from shared.metrics.federation import FederationMetrics
from shared.metrics.outside import OutsideMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database

#: Of a key that the configuration names: it is as valid as the configuration is.
_FOR_EVER_MS = (1 << 53) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationAccess:
    """The ways to other servers. own_keys: our keys in use."""

    server_name: ServerName
    own_keys: tuple[SigningKey, ...]
    client: OutsideClient
    discovery: ServerDiscovery
    requests: ServerRequests

    async def close(self) -> None:
        await self.client.close()


def open_federation(config: Config, clock: Clock, registry: CollectorRegistry) -> FederationAccess:
    """Return the ways to other servers. Must be called in the process's loop."""
    settings, name = config.federation, ServerName(config.server_name)
    keys = tuple(parse_signing_key(line) for line in config.signing.key.reveal().splitlines() if line.strip())
    client = OutsideClient(
        AddressRules(settings.denied_ip_ranges, settings.allowed_ip_ranges),
        OutsideMetrics(registry),
        user_agent=f"Skep/{version('skep')}",
        custom_ca_file=settings.custom_ca_file,
    )
    discovery = ServerDiscovery(client, SrvResolver(), clock)
    return FederationAccess(
        server_name=name,
        own_keys=keys,
        client=client,
        discovery=discovery,
        requests=ServerRequests(name, keys[0], client, discovery),
    )


def make_key_ring(
    access: FederationAccess, config: Config, database: Database, clock: Clock, registry: CollectorRegistry
) -> KeyRing:
    """Return the keys of other servers."""
    return KeyRing(
        access.server_name,
        {key.key_id: VerifyKey(key.verify_key, valid_until_ts=_FOR_EVER_MS) for key in access.own_keys},
        database,
        access.requests,
        clock,
        FederationMetrics(registry),
        notaries=[ServerName(each) for each in config.federation.trusted_key_servers],
        cache_bytes=config.caches.server_keys_bytes,
    )
