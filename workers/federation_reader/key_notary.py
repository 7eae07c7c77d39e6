"""Keys of other servers, for servers that ask us about them.

Spec: server-server API, "Querying Keys Through Another Server".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from shared.core.addresses import address_key
from shared.core.errors import MatrixError
from shared.core.identifiers import ServerName, check_server_name
from shared.core.signing.json_signatures import sign_json
from shared.core.signing.keys import SigningKey
from shared.federation.key_ring import KeyRing
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.federation.server_keys import SignedAnswer, get_signed_answers
from workers.federation_reader.own_server import OwnServer

_MOST_SERVERS = 100
_FETCH_TIMEOUT_S = 15.0
#: A server is asked again for a key that it lacks, but not more often.
_FRESH_MS = 60_000


class _Criteria(msgspec.Struct):
    minimum_valid_until_ts: int | None = None


class _QueryBody(msgspec.Struct):
    server_keys: dict[str, dict[str, _Criteria]]


class KeyNotary:
    """Answers with what the servers themselves signed, and our signature beside it.

    The answers of servers that are away come from the database.
    """

    def __init__(
        self,
        server_name: str,
        own_keys: Sequence[SigningKey],
        own_server: OwnServer,
        keys: KeyRing,
        database: Database,
        clock: Clock,
    ) -> None:
        self._server_name = server_name
        self._own_keys = own_keys
        self._own_server = own_server
        self._keys = keys
        self._database = database
        self._clock = clock

    @endpoint(
        name="query_keys_of_server",
        method="GET",
        path="/_matrix/key/v2/query/{serverName}",
        aliases=("/_matrix/key/v2/query/{serverName}/{keyId}",),  # deprecated
        pool="federation",
        auth=Auth.NONE,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="server-server-api/#get_matrixkeyv2queryservername",
    )
    async def query_keys_of_server(self, request: Request) -> Response:
        """Return the keys of one server, an empty list if they cannot be had."""
        server = check_server_name(request.params["serverName"])
        least_ms = request.query_int("minimum_valid_until_ts", self._clock.now_ms())
        return await self._answer({server: {request.params.get("keyId", ""): least_ms}}, request.client_address)

    @endpoint(
        name="query_keys_of_servers",
        method="POST",
        path="/_matrix/key/v2/query",
        pool="federation",
        auth=Auth.NONE,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="server-server-api/#post_matrixkeyv2query",
    )
    async def query_keys_of_servers(self, request: Request) -> Response:
        """Return the keys of several servers, without those whose keys cannot be had."""
        asked = request.decode(_QueryBody).server_keys
        if len(asked) > _MOST_SERVERS:
            raise MatrixError("M_TOO_LARGE", f"At most {_MOST_SERVERS} servers may be asked about at once", 413)
        now_ms = self._clock.now_ms()

        def least_of(criteria: _Criteria) -> int:
            return now_ms if criteria.minimum_valid_until_ts is None else criteria.minimum_valid_until_ts

        return await self._answer(
            {
                check_server_name(server): {key_id: least_of(criteria) for key_id, criteria in by_key.items()}
                or {"": now_ms}
                for server, by_key in asked.items()
            },
            request.client_address,
        )

    async def _answer(self, wanted: Mapping[ServerName, Mapping[str, int]], address: str) -> Response:
        """Return the answer.

        wanted: server -> key id -> least time until which it should be valid. The key id "" means any key.
        address: of the asker.
        """
        others = [server for server in wanted if server != self._server_name]
        stored = await get_signed_answers(self._database, others)
        now_ms = self._clock.now_ms()
        stale = [server for server in others if not _is_fresh(stored, server, wanted[server], now_ms)]
        if stale:
            await self._keys.published(stale, timeout_s=_FETCH_TIMEOUT_S, asker=f"notary {address_key(address)}")
            stored = await get_signed_answers(self._database, others)
        answers: list[Any] = []
        if self._server_name in wanted:
            answers.append(orjson.loads(self._own_server.published_keys()))
        for each in stored:
            key_ids = wanted[each.server]
            if "" in key_ids or each.key_ids & key_ids.keys():
                answers.append(self._signed(orjson.loads(each.signed)))
        return json_response({"server_keys": answers})

    def _signed(self, answer: dict[str, Any]) -> dict[str, Any]:
        for key in self._own_keys:
            answer = sign_json(answer, self._server_name, key)
        return answer


def _is_fresh(stored: Sequence[SignedAnswer], server: ServerName, key_ids: Mapping[str, int], now_ms: int) -> bool:
    """Return True if the server need not be asked: the stored answers are valid for long enough, or new."""
    own = [each for each in stored if each.server == server]
    if any(each.fetched_ms > now_ms - _FRESH_MS for each in own):
        return True
    return all(
        any((key_id == "" or key_id in each.key_ids) and each.valid_until_ms >= least_ms for each in own)
        for key_id, least_ms in key_ids.items()
    )
