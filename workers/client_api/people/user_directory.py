"""The search of the user directory. Spec: client-server API, "User Directory"."""

import msgspec

from shared.core.errors import invalid_param
from shared.core.search.directory_words import MAX_TERM_CHARS, term_words, user_id_prefix
from shared.http.endpoint import RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database
from shared.storage.search.user_directory import search_directory

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 100


class SearchBody(msgspec.Struct):
    search_term: str
    limit: int = _DEFAULT_LIMIT


class UserDirectory:
    def __init__(self, database: Database, *, search_all_users: bool) -> None:
        """search_all_users: find all users of this server, not only those visible to the searcher through rooms."""
        self._database = database
        self._search_all_users = search_all_users

    @endpoint(
        name="search_users",
        method="POST",
        path="/_matrix/client/{version}/user_directory/search",
        pool="client",
        rate_limit=RateLimit.READ,
        spec="client-server-api/#post_matrixclientv3user_directorysearch",
    )
    async def search_users(self, request: Request) -> Response:
        """POST /user_directory/search. Raises M_BAD_JSON, M_INVALID_PARAM for a long term or a limit below 1."""
        body = request.decode(SearchBody)
        if len(body.search_term) > MAX_TERM_CHARS:
            raise invalid_param(f"search_term must have at most {MAX_TERM_CHARS} characters")
        if body.limit < 1:
            raise invalid_param("limit must be at least 1")
        limit = min(body.limit, _MAX_LIMIT)
        words = term_words(body.search_term)
        found = []
        if words:
            found = await search_directory(
                self._database,
                request.user.user_id,
                words,
                user_id_prefix(body.search_term),
                limit + 1,
                all_users=self._search_all_users,
            )
        results = []
        for user in found[:limit]:
            fields = {"user_id": user.user_id, "display_name": user.display_name, "avatar_url": user.avatar_url}
            results.append({key: value for key, value in fields.items() if value is not None})
        return json_response({"results": results, "limited": len(found) > limit})
