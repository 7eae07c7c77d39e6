"""The check of the signatures of other servers. Spec: server-server API, "Request Authentication"."""

from shared.core.addresses import address_key
from shared.core.canonical_json import decode_json_exactly
from shared.core.errors import EventFormatError, MatrixError, SignatureError
from shared.core.event_checks.signatures import RequiredSignature
from shared.core.federation.request_auth import (
    RequestSignature,
    check_request_signature,
    parse_request_signature,
)
from shared.core.identifiers import ServerName
from shared.federation.key_ring import KeyRing
from shared.http.request import Request
from shared.runtime.clock import Clock

#: A key that takes longer is there for the next request: its fetch goes on.
_KEY_TIMEOUT_S = 10.0


class RequestCheck:
    """The HTTP server's `ServerAuthenticator`."""

    def __init__(self, server_name: ServerName, keys: KeyRing, clock: Clock) -> None:
        self._server_name = server_name
        self._keys = keys
        self._clock = clock

    def check_header(self, request: Request) -> None:
        """Check what the header says, before anything is verified and the body is read.

        Raises MatrixError M_UNAUTHORIZED, 401, for a header in the wrong form, or meant for another server.
        """
        self._named(request)

    def _named(self, request: Request) -> RequestSignature:
        try:
            header = request.headers.get(b"authorization")
            if header is None:
                raise SignatureError("it has no Authorization header")
            signature = parse_request_signature(header.decode("latin-1"))
        except SignatureError as error:
            raise _unauthorized(f"The request is not signed: {error}") from None
        if signature.destination not in (None, self._server_name):
            raise _unauthorized(f"The request is for {signature.destination}, and this server is {self._server_name}")
        if signature.origin == self._server_name:
            raise _unauthorized("The request has this server's own name as its origin")
        return signature

    async def authenticate_server(self, request: Request) -> ServerName:
        """Return the server that signed the request. Raises MatrixError M_UNAUTHORIZED, 401, and M_NOT_JSON."""
        signature = self._named(request)
        now_ms = self._clock.now_ms()
        required = RequiredSignature(signature.origin, frozenset({signature.key_id}), now_ms)
        keys = await self._keys.keys_for(
            [required],
            timeout_s=_KEY_TIMEOUT_S,
            asker=address_key(request.client_address),
            heard_from=[signature.origin],
        )
        key = keys.get((signature.origin, signature.key_id))
        if key is None or not key.was_valid_at(now_ms):
            raise _unauthorized(f"{signature.origin} has no valid key {signature.key_id}, or it could not be had")
        uri = request.path + (b"?" + request.raw_query if request.raw_query else b"")
        # Numbers as they were written: events of old room versions may have any.
        content = decode_json_exactly(request.body) if request.body else None
        try:
            check_request_signature(
                signature, key.key, method=request.method, uri=uri.decode("latin-1"), content=content
            )
        except EventFormatError as error:
            raise MatrixError("M_NOT_JSON", f"The content has no canonical JSON form: {error}", 400) from None
        except SignatureError:
            raise _unauthorized(f"The signature of {signature.origin} by {signature.key_id} does not verify") from None
        return signature.origin


def _unauthorized(message: str) -> MatrixError:
    return MatrixError("M_UNAUTHORIZED", message, 401)
