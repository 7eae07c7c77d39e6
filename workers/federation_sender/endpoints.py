"""A federation_sender serves no requests."""

from shared.http.endpoint import Endpoint, Pool

POOLS: tuple[Pool, ...] = ()
ENDPOINTS: tuple[Endpoint, ...] = ()
