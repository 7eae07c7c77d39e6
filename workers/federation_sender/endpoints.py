"""The sender serves nobody: it only sends."""

from shared.http.endpoint import Endpoint, Pool

POOLS: tuple[Pool, ...] = ()
ENDPOINTS: tuple[Endpoint, ...] = ()
