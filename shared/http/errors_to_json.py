"""Answers to failed requests, and the log of refused ones. Nothing internal, and no traceback, leaves the server."""

import logging
import math
import time

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
from shared.core.identifiers import UserId
from shared.http.request import Headers, Response, error_body
from shared.http.routing import WrongMethod

logger = logging.getLogger(__name__)

#: Clients ask for data that may not exist, as a matter of course.
_ROUTINE = ("M_NOT_FOUND",)
#: At most so many lines at once, and so many a second in the long run: a flood of bad requests costs little.
_BURST = 50
_PER_SECOND = 5.0
_LONGEST_MESSAGE = 200


def response_for(error: Exception) -> Response:
    """Return the Matrix response for an error. Spec: client-server API, "Standard error response".

    A 429 and a 503 have `retry_after_ms` and `Retry-After` (whole seconds, rounded up).
    """
    if isinstance(error, InteractiveAuthNeeded):
        return Response(orjson.dumps(error.body), 401)
    if isinstance(error, MatrixError):
        headers: Headers = ()
        if "retry_after_ms" in error.extra:
            headers = ((b"retry-after", b"%d" % math.ceil(error.extra["retry_after_ms"] / 1000)),)
        elif isinstance(error, WrongMethod):
            headers = ((b"allow", ", ".join(error.allowed).encode()),)
        return Response(error_body(error), error.status, headers)
    if isinstance(error, AuthRuleViolation):
        return Response(error_body(MatrixError("M_FORBIDDEN", error.message)), 403)
    if isinstance(error, EventFormatError | SignatureError):
        return Response(error_body(MatrixError("M_BAD_JSON", str(error))), 400)
    if isinstance(error, Unavailable):
        retry_after_s = max(1, math.ceil(error.retry_after_s))
        body = error_body(MatrixError("M_UNKNOWN", str(error), extra={"retry_after_ms": retry_after_s * 1000}))
        return Response(body, 503, ((b"retry-after", b"%d" % retry_after_s),))
    if isinstance(error, RemoteServerError):
        return Response(error_body(MatrixError("M_UNKNOWN", str(error))), 502)
    logger.error("A request failed by a bug", exc_info=error)
    return Response(error_body(MatrixError("M_UNKNOWN", "Internal server error")), 500)


class RefusalLog:
    """Log refused requests at INFO: endpoint, error, user and address. Never a token, a path or a body."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at_s = time.monotonic()
        self._skipped = 0

    def note(self, error: Exception, method: str, name: str, user_id: UserId | None, address: str) -> None:
        """Log a request that ended with this error, unless it is routine or no refusal.

        name: of the endpoint.
        user_id: of the requester, None if unknown.
        """
        if isinstance(error, AuthRuleViolation):
            what, status = f"M_FORBIDDEN: {error.message}", 403
        elif isinstance(error, EventFormatError):
            what, status = f"M_BAD_JSON: {error}", 400
        elif isinstance(error, MatrixError) and not isinstance(error, InteractiveAuthNeeded):
            what, status = str(error), error.status
            if error.errcode in _ROUTINE:
                return
        else:
            return
        if not self._may_log():
            self._skipped += 1
            return
        words = " ".join(what.split())[:_LONGEST_MESSAGE]
        logger.info(
            "Refused %s %s with %d %s (user %s, address %s)", method, name, status, words, user_id or "-", address
        )
        if self._skipped:
            logger.info("%d more refused requests are not in the log: they came too quickly", self._skipped)
            self._skipped = 0

    def _may_log(self) -> bool:
        now_s = time.monotonic()
        self._left = min(_BURST, self._left + (now_s - self._at_s) * _PER_SECOND)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
