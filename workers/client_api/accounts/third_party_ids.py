"""E-mail addresses and phone numbers of an account. This server keeps none yet.

Spec: client-server API, "Adding Account Administrative Contact Information".
"""

from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint


class ThirdPartyIds:
    @endpoint(
        name="list_third_party_ids",
        method="GET",
        path="/_matrix/client/{version}/account/3pid",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3account3pid",
    )
    async def list_third_party_ids(self, request: Request) -> Response:
        """GET /account/3pid. Settings pages of clients fail without an answer."""
        return json_response({"threepids": []})
