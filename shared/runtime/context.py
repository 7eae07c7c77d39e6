"""What follows a request through its tasks: contextvars, set once by the HTTP server, read by logs and calls."""

from contextvars import ContextVar

#: Made at the edge (haproxy), passed on in `x-request-id` by every internal call.
request_id: ContextVar[str] = ContextVar("request_id", default="-")
