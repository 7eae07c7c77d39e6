"""The identity of a client's transaction. Spec: client-server API, "Transaction identifiers"."""

import hashlib

import orjson

from shared.http.request import Request


def transaction_key(request: Request) -> bytes:
    """Return the hash (32 bytes) of user, device (or token if there is none), method and decoded path.

    A device that was logged out and its successor of the same name are two devices.
    The endpoint's name replaces the literals of the path, so that `r0` and `v3` are the same. Room and event type are
    among the parameters, so that one id in two rooms means two transactions.
    """
    user = request.user
    parts = [
        user.user_id,
        [user.device_id, user.device_created_ms] if user.device_id is not None else ["token", user.token_hash.hex()],
        request.method,
        request.endpoint.name,
        sorted(request.params.items()),
    ]
    return hashlib.sha256(orjson.dumps(parts)).digest()
