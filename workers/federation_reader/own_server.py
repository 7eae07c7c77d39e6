"""Our server's keys and version, for other servers. Spec: server-server API, "Retrieving server keys"."""

from importlib.metadata import version

from shared.config.sections import Signing
from shared.core.canonical_json import encode_canonical
from shared.core.signing.keys import parse_signing_key
from shared.core.wire.server_keys import ExpiredKey, build_server_keys
from shared.http.endpoint import Auth
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.runtime.clock import Clock


class OwnServer:
    """The keys are signed again when half of their validity is over, so that no server gets stale ones."""

    def __init__(self, server_name: str, config: Signing, clock: Clock) -> None:
        self._server_name = server_name
        self._keys = [parse_signing_key(line) for line in config.key.reveal().splitlines() if line.strip()]
        self._old_keys = [ExpiredKey(old.key_id, old.public_key, old.expired_ms) for old in config.old_keys]
        self._validity_ms = config.validity_s * 1000
        self._clock = clock
        self._answer = b""
        self._renew_at_ms = 0

    @endpoint(
        name="get_server_keys",
        method="GET",
        path="/_matrix/key/v2/server",
        aliases=("/_matrix/key/v2/server/{keyId}",),  # deprecated, with the same answer
        pool="federation",
        auth=Auth.NONE,
        idempotent=True,
        spec="server-server-api/#get_matrixkeyv2server",
    )
    async def get_server_keys(self, request: Request) -> Response:
        """Return our verify keys and old verify keys, signed."""
        return Response(self.published_keys())

    def published_keys(self) -> bytes:
        """Return the answer of `get_server_keys`."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._renew_at_ms:
            answer = build_server_keys(self._server_name, self._keys, self._old_keys, now_ms + self._validity_ms)
            # Canonical, as it was signed: some servers check the signature against the bytes that they received.
            self._answer = encode_canonical(answer)
            self._renew_at_ms = now_ms + self._validity_ms // 2
        return self._answer

    @endpoint(
        name="get_server_version",
        method="GET",
        path="/_matrix/federation/v1/version",
        pool="federation",
        auth=Auth.NONE,
        idempotent=True,
        spec="server-server-api/#get_matrixfederationv1version",
    )
    async def get_server_version(self, request: Request) -> Response:
        """Return the name and the version of our software."""
        return json_response({"server": {"name": "Skep", "version": version("skep")}})
