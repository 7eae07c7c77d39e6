"""The endpoints and pools of the whole fleet, as each worker type declares them."""

from shared.http.endpoint import Endpoint, Pool
from workers.background import endpoints as background
from workers.client_api import endpoints as client_api
from workers.event_persister import endpoints as event_persister
from workers.federation_reader import endpoints as federation_reader
from workers.federation_sender import endpoints as federation_sender
from workers.main import endpoints as main
from workers.media import endpoints as media
from workers.synchrotron import endpoints as synchrotron

_DECLARATIONS = (
    client_api,
    event_persister,
    synchrotron,
    federation_reader,
    federation_sender,
    media,
    background,
    main,
)


def all_endpoints() -> tuple[Endpoint, ...]:
    """Return every declared endpoint, by worker type."""
    return tuple(endpoint for module in _DECLARATIONS for endpoint in module.ENDPOINTS)


def all_pools() -> tuple[Pool, ...]:
    """Return every declared pool, by worker type."""
    return tuple(pool for module in _DECLARATIONS for pool in module.POOLS)
