"""Main serves no client: only its health, its metrics and, later, its admin commands."""

from shared.http.endpoint import Endpoint, Pool

POOLS: tuple[Pool, ...] = ()
ENDPOINTS: tuple[Endpoint, ...] = ()
