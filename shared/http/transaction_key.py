"""What makes two requests the same transaction. Spec: client-server API, "Transaction identifiers"."""

import hashlib

import orjson

from shared.http.request import Request


def transaction_key(request: Request) -> bytes:
    """Return 32 bytes: the hash of user, device (or token where there is none), method and decoded path.

    The operation's name stands for the path's literals, so that `r0` and `v3` are one; room and event type are among
    the parameters, so that the same id in two rooms is two requests.
    """
    user = request.user
    parts = [
        user.user_id,
        user.device_id if user.device_id is not None else ["token", user.token_hash.hex()],
        request.method,
        request.endpoint.name,
        sorted(request.params.items()),
    ]
    return hashlib.sha256(orjson.dumps(parts)).digest()
