"""Conversion of errors to responses. Internal details and stack traces never leave the server."""

import logging
import math

import orjson

from shared.core.errors import (
    AuthRuleViolation,
    EventFormatError,
    InteractiveAuthNeeded,
    MatrixError,
    RemoteServerError,
    SignatureError,
    Unavailable,
)
from shared.http.request import Headers, Response, error_body

logger = logging.getLogger(__name__)


def response_for(error: Exception) -> Response:
    """Return the Matrix response for an error. Spec: client-server API, "Standard error response".

    A 429 has `retry_after_ms` and `Retry-After` (whole seconds, rounded up); a 503 has `Retry-After`.
    """
    if isinstance(error, InteractiveAuthNeeded):
        return Response(orjson.dumps(error.body), 401)
    if isinstance(error, MatrixError):
        headers: Headers = ()
        if "retry_after_ms" in error.extra:
            headers = ((b"retry-after", b"%d" % math.ceil(error.extra["retry_after_ms"] / 1000)),)
        return Response(error_body(error), error.status, headers)
    if isinstance(error, AuthRuleViolation):
        return Response(error_body(MatrixError("M_FORBIDDEN", error.message)), 403)
    if isinstance(error, EventFormatError | SignatureError):
        return Response(error_body(MatrixError("M_BAD_JSON", str(error))), 400)
    if isinstance(error, Unavailable):
        retry_after = b"%d" % max(1, math.ceil(error.retry_after_s))
        return Response(error_body(MatrixError("M_UNKNOWN", str(error))), 503, ((b"retry-after", retry_after),))
    if isinstance(error, RemoteServerError):
        return Response(error_body(MatrixError("M_UNKNOWN", str(error))), 502)
    logger.error("A request failed by a bug", exc_info=error)
    return Response(error_body(MatrixError("M_UNKNOWN", "Internal server error")), 500)
