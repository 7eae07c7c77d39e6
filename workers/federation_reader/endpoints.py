"""Inbound federation. Spec: server-server API."""

from shared.http.endpoint import Auth, Endpoint, Pool

POOLS = (Pool("federation", worker="federation_reader"),)

ENDPOINTS = (
    Endpoint(
        "get_server_keys", ("GET",), "/_matrix/key/v2/server", "federation", auth=Auth.NONE, idempotent=True,
        spec="server-server-api/#get_matrixkeyv2server",
        aliases=("/_matrix/key/v2/server/{keyId}",),  # deprecated since long; the answer is the same
    ),
    Endpoint(
        "get_server_version", ("GET",), "/_matrix/federation/v1/version", "federation", auth=Auth.NONE,
        idempotent=True, spec="server-server-api/#get_matrixfederationv1version",
    ),
)  # fmt: skip
