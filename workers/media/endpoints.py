"""The pool of media requests. It is declared so that haproxy has its backends. The endpoints come with the store."""

from shared.http.endpoint import Endpoint, Pool

POOLS = (Pool(name="media", worker="media", connections_per_instance=200, server_timeout_s=120.0),)
ENDPOINTS: tuple[Endpoint, ...] = ()
