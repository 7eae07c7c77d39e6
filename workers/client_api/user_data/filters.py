"""Stored filters. Spec: client-server API, "Filtering"."""

import hashlib

from shared.core.canonical_json import encode_canonical
from shared.core.errors import not_found
from shared.core.filters import parse_filter
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.operations.quotas import UserQuotas
from shared.storage.engine.pool import Database
from shared.storage.user_data.account_data import get_filter_json, store_filter
from workers.client_api.user_data.account_data import own_user_id


class Filters:
    def __init__(self, database: Database, quotas: UserQuotas) -> None:
        self._database = database
        self._quotas = quotas

    @endpoint(
        name="create_filter",
        method="POST",
        path="/_matrix/client/{version}/user/{userId}/filter",
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#post_matrixclientv3useruseridfilter",
    )
    async def create_filter(self, request: Request) -> Response:
        """POST /user/{userId}/filter. Raises M_BAD_JSON for an invalid filter, M_USER_LIMIT_EXCEEDED."""
        user_id = own_user_id(request)
        body = request.json_object()
        parse_filter(body)
        json = encode_canonical(body)
        most = self._quotas.limits.filters_bytes
        filter_id = await store_filter(self._database, user_id, hashlib.sha256(json).digest(), json, most)
        if filter_id is None:
            raise self._quotas.exceeded(
                "filters_bytes", f"Your filters may take at most {most} bytes. Use one of those that you have"
            )
        return json_response({"filter_id": str(filter_id)})

    @endpoint(
        name="get_filter",
        method="GET",
        path="/_matrix/client/{version}/user/{userId}/filter/{filterId}",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3useruseridfilterfilterid",
    )
    async def get_filter(self, request: Request) -> Response:
        """GET /user/{userId}/filter/{filterId}. Raises M_NOT_FOUND."""
        user_id, text = own_user_id(request), request.params["filterId"]
        json = None
        if text.isascii() and text.isdigit() and len(text) <= 18:
            json = await get_filter_json(self._database, user_id, int(text))
        if json is None:
            raise not_found("There is no such filter")
        return Response(json)
