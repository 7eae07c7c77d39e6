"""Rules for every answer, even to a hostile request. Spec: client-server API, "Standard error response"."""

import json
import re
from typing import Any

from tests.fleet.raw_http import Answer

_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
    "access-control-allow-headers": "X-Requested-With, Content-Type, Authorization",
}
#: Allowed statuses of each error code. A code that is missing here is a fault too: look it up, then add it.
_STATUSES: dict[str, set[int]] = {
    "M_BAD_ALIAS": {400},
    "M_BAD_JSON": {400},
    "M_BAD_STATE": {400},
    "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM": {403},
    "M_EXCLUSIVE": {400},
    "M_FORBIDDEN": {401, 403},  # 401: a failed stage of interactive authentication
    "M_GUEST_ACCESS_FORBIDDEN": {401, 403},
    "M_INCOMPATIBLE_ROOM_VERSION": {400},
    "M_INVALID_PARAM": {400},
    "M_INVALID_ROOM_STATE": {400},
    "M_INVALID_USERNAME": {400},
    "M_KEY_TOO_LARGE": {400},
    "M_MISSING_PARAM": {400},
    "M_MISSING_TOKEN": {401},
    "M_NOT_FOUND": {404},
    "M_NOT_JSON": {400},
    "M_PROFILE_TOO_LARGE": {400},
    "M_ROOM_IN_USE": {400},
    "M_SERVER_NOT_TRUSTED": {400},
    "M_TOO_LARGE": {413},
    "M_UNAUTHORIZED": {401},
    # The spec's code for an unknown login type (400) and a taken alias (409); Skep's for an unknown session (401).
    "M_UNKNOWN": {400, 401, 409},
    "M_UNKNOWN_POS": {400},  # of sliding sync
    "M_UNKNOWN_TOKEN": {401},
    "M_UNRECOGNIZED": {400, 404, 405},  # 400: a type of authentication that no flow has
    "M_UNSUPPORTED_ROOM_VERSION": {400},
    "M_USER_IN_USE": {400},
    "M_WEAK_PASSWORD": {400},
}
_INTERNAL = re.compile(
    rb'Traceback|File \\?"|\.py\b|asyncpg|msgspec|orjson|postgres|SELECT |INSERT |\bself\b|<class|object at 0x'
    rb"|Error:|Exception|127\.0\.0\.1:\d|slot \d|\$\.\.\.|errno|Internal server error",
    re.IGNORECASE,
)


def faults_of(answer: Answer, *, asks_others: bool = False) -> list[str]:
    """Return the faults of an answer to a client, in words; [] for a correct answer.

    asks_others: allow 502 M_UNKNOWN, because the endpoint queries the server that the request names.
    """
    faults: list[str] = []
    elsewhere = asks_others and answer.status == 502
    if answer.status >= 500 and not elsewhere:
        faults.append(f"status {answer.status}")
    for name, expected in _CORS.items():
        found = [text for key, text in answer.headers if key == name]
        if found != [expected]:
            faults.append(f"{name}: {found}")
    if answer.header("content-type") != "application/json":
        faults.append(f"content-type {answer.header('content-type')}")
    try:
        value: Any = json.loads(answer.body)
    except ValueError:
        return [*faults, f"not JSON: {answer.body[:200]!r}"]
    if not isinstance(value, dict | list if answer.status == 200 else dict):
        return [*faults, f"not an object: {answer.body[:200]!r}"]
    if elsewhere and value.get("errcode") == "M_UNKNOWN":
        return faults
    return [*faults, *_faults_of_error(answer, value)] if answer.status >= 400 else faults


def _faults_of_error(answer: Answer, value: dict[str, Any]) -> list[str]:
    if answer.status == 401 and "flows" in value and "session" in value and "errcode" not in value:
        return []  # the first answer of interactive authentication is not a Matrix error
    errcode, message = value.get("errcode"), value.get("error")
    faults = []
    if not isinstance(errcode, str) or not isinstance(message, str) or not message:
        faults.append(f"not a Matrix error: {answer.body[:200]!r}")
    elif answer.status not in _STATUSES.get(errcode, ()):
        faults.append(f"{errcode} with {answer.status}: {message}")
    if internal := _INTERNAL.search(answer.body):
        faults.append(f"leaks internals: {internal[0]!r} in {answer.body[:300]!r}")
    if len(answer.body) > 2000:
        faults.append(f"an error of {len(answer.body)} bytes")
    return faults
