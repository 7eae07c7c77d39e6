"""Main serves no clients. Every process serves its health and its metrics (`shared/http/process_pages.py`)."""

from shared.http.endpoint import Endpoint, Pool

POOLS: tuple[Pool, ...] = ()
ENDPOINTS: tuple[Endpoint, ...] = ()
