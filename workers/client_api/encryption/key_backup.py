"""Server-side key backup. There is none yet. Spec: client-server API, "Server-side key backups"."""

from shared.core.errors import not_found
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response
from shared.http.serving import endpoint


class KeyBackup:
    @endpoint(
        name="get_key_backup_version",
        method="GET",
        path="/_matrix/client/{version}/room_keys/version",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3room_keysversion",
    )
    async def get_key_backup_version(self, request: Request) -> Response:
        """GET /room_keys/version. Clients take M_NOT_FOUND for "no backup", and any other error for a fault."""
        raise not_found("There is no key backup")
