"""Every error that Skep raises on purpose.

SkepError
├── MatrixError                 an error answer to a client or server: code and status
│   └── InteractiveAuthNeeded   401 with flows and a session (user-interactive authentication)
├── EventFormatError            no room version allows an event of this form: it is dropped
├── SignatureError              a signature is missing or wrong: the event is dropped
├── AuthRuleViolation           a rule of the room's version forbids the event: rejected, or M_FORBIDDEN to a client
├── RemoteServerError           another server's fault: unreachable, or an answer against the protocol
└── Unavailable                 our fault, temporary: database down, slot moving; 503 with Retry-After
    └── Fenced                  the process has lost its lease: it drops its state and rejoins

Core errors carry rule names, not statuses; `shared/http/errors_to_json.py` alone turns errors into answers.
"""

from collections.abc import Mapping
from typing import Any


class SkepError(Exception):
    """The base of all errors that are part of the contract between modules."""


class MatrixError(SkepError):
    """An error for the client or server that made the request. Spec: client-server API, "Standard error response".

    errcode: such as "M_FORBIDDEN".
    message: a sentence for people, without secrets.
    status: the HTTP status.
    extra: more top-level keys of the answer, such as `retry_after_ms`.
    """

    def __init__(self, errcode: str, message: str, status: int = 400, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{errcode}: {message}")
        self.errcode = errcode
        self.message = message
        self.status = status
        self.extra: dict[str, Any] = dict(extra or {})


class InteractiveAuthNeeded(MatrixError):
    """401: the request needs a stage of user-interactive authentication.

    body: the whole answer: `session`, `flows`, `params`, `completed`; after a failed stage also `errcode` and `error`.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__(body.get("errcode", ""), body.get("error", ""), 401, body)
        self.body = dict(body)


class EventFormatError(SkepError):
    """An event breaks the format of its room version, or a size limit. The message names the field."""


class SignatureError(SkepError):
    """A required signature is missing, malformed or does not verify."""


class AuthRuleViolation(SkepError):
    """An authorization rule of the room's version forbids the event.

    rule: number and short name, such as "4.3.1 join: sender must be state_key".
    section: the section of the spec that has the rule.
    """

    def __init__(self, rule: str, message: str, section: str = "rooms/authorization-rules") -> None:
        super().__init__(f"{message} (rule {rule})")
        self.rule = rule
        self.message = message
        self.section = section


class RemoteServerError(SkepError):
    """The other server is unreachable, too slow, or answered against the protocol."""


class Unavailable(SkepError):
    """The request cannot be served now. It may succeed if retried after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Fenced(Unavailable):
    """The lease under which this process writes was revoked. Nothing was written."""


def user_deactivated() -> MatrixError:
    return MatrixError("M_USER_DEACTIVATED", "This account has been deactivated", 403)


def forbidden(message: str) -> MatrixError:
    return MatrixError("M_FORBIDDEN", message, 403)


def not_found(message: str) -> MatrixError:
    return MatrixError("M_NOT_FOUND", message, 404)


def bad_json(message: str) -> MatrixError:
    return MatrixError("M_BAD_JSON", message, 400)


def invalid_param(message: str) -> MatrixError:
    return MatrixError("M_INVALID_PARAM", message, 400)


def missing_param(message: str) -> MatrixError:
    return MatrixError("M_MISSING_PARAM", message, 400)


def limit_exceeded(wait_s: float, message: str = "Too many requests") -> MatrixError:
    """Return the error: 429 with `retry_after_ms`. Spec: client-server API, "Rate limiting"."""
    return MatrixError("M_LIMIT_EXCEEDED", message, 429, {"retry_after_ms": max(1, round(wait_s * 1000))})


#: The message of `unrecognized` that an HTTP server replaces by one with the method and the path.
UNRECOGNIZED_REQUEST = "Unrecognized request"


def unrecognized(message: str = UNRECOGNIZED_REQUEST, status: int = 404) -> MatrixError:
    return MatrixError("M_UNRECOGNIZED", message, status)
