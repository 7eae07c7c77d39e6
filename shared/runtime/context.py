"""Context variables of a request. The HTTP server sets them; logs and calls of all its tasks read them."""

from contextvars import ContextVar

#: Made at the edge (haproxy), and passed on in `x-request-id` by every internal call.
request_id: ContextVar[str] = ContextVar("request_id", default="-")
