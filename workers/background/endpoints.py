"""Jobs serve nobody."""

from shared.http.endpoint import Endpoint, Pool

POOLS: tuple[Pool, ...] = ()
ENDPOINTS: tuple[Endpoint, ...] = ()
