"""GET and POST /publicRooms: the room directory of this server, the largest rooms first.

The published rooms are read for each request. Their member counts are kept for a minute, since counting is expensive.
Spec: client-server API, "Published room directory".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.core.errors import invalid_param, not_found
from shared.core.identifiers import UserId
from shared.core.room_summary import RoomFacts, directory_entry
from shared.core.search.folding import fold
from shared.http.endpoint import Auth, RateLimit, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.room_facts import get_facts_by_nid
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.rooms.public_facts import get_joined_counts, get_published_rooms

_DEFAULT_LIMIT = 50
_MAX_LIMIT = 500
_MAX_PUBLISHED = 100_000
_MAX_SEARCHED = 5_000  # rooms in one request
_PAGE = 200
_COUNTS_LAST_MS = 60_000
_MAX_TERM_CHARS = 1_000
_MAX_ROOM_TYPES = 100
#: The direction, and the member count and number of the room at which the last page ended.
_TOKEN = re.compile(r"d1-([fb])-([0-9]{1,9})-([0-9]{1,18})", re.ASCII)


class Filter(msgspec.Struct):
    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class PublicRoomsBody(msgspec.Struct):
    limit: int | None = None
    since: str | None = None
    filter: Filter | None = None
    include_all_networks: bool = False
    third_party_instance_id: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class _Key:
    """The sort key of a room: its negated member count, then its number, so that the order is total."""

    fewer: int
    room_nid: int

    def token(self, direction: str) -> str:
        return f"d1-{direction}-{-self.fewer}-{self.room_nid}"


class PublicRooms:
    """The handlers of both endpoints."""

    def __init__(self, server_name: str, database: Database, clock: Clock) -> None:
        self._server_name = server_name
        self._database = database
        self._clock = clock
        self._counts: dict[int, int] = {}
        self._counted_ms = 0
        #: The published rooms as last read, and in the order of the directory.
        self._nids: list[int] = []
        self._keys: list[_Key] = []

    @endpoint(
        name="get_public_rooms",
        method="GET",
        path="/_matrix/client/{version}/publicRooms",
        api_v1=True,
        pool="room_reads",
        share=Share.HIERARCHIES,
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3publicrooms",
    )
    async def get_public_rooms(self, request: Request) -> Response:
        """GET /publicRooms. Raises M_NOT_FOUND for other servers, M_INVALID_PARAM."""
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=_MAX_LIMIT)
        self._check_server(request)
        return await self._answer(request, limit, request.query_text("since"), Filter())

    @endpoint(
        name="query_public_rooms",
        method="POST",
        path="/_matrix/client/{version}/publicRooms",
        api_v1=True,
        pool="room_reads",
        share=Share.HIERARCHIES,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#post_matrixclientv3publicrooms",
    )
    async def query_public_rooms(self, request: Request) -> Response:
        """POST /publicRooms. Raises M_NOT_FOUND for other servers, M_INVALID_PARAM, M_BAD_JSON."""
        body = request.decode(PublicRoomsBody, empty_ok=True)
        limit = _DEFAULT_LIMIT if body.limit is None else min(body.limit, _MAX_LIMIT)
        if limit < 1:
            raise invalid_param("limit must be at least 1")
        wanted = body.filter or Filter()
        if wanted.generic_search_term is not None and len(wanted.generic_search_term) > _MAX_TERM_CHARS:
            raise invalid_param(f"generic_search_term may have at most {_MAX_TERM_CHARS} characters")
        if wanted.room_types is not None and len(wanted.room_types) > _MAX_ROOM_TYPES:
            raise invalid_param(f"room_types may have at most {_MAX_ROOM_TYPES} entries")
        self._check_server(request)
        if body.third_party_instance_id is not None and not body.include_all_networks:
            return json_response({"chunk": [], "total_room_count_estimate": 0})  # this server bridges no networks
        return await self._answer(request, limit, body.since, wanted)

    def _check_server(self, request: Request) -> None:
        if request.query_text("server", self._server_name) != self._server_name:
            raise not_found("This server cannot query the room directories of other servers yet")

    async def _answer(self, request: Request, limit: int, since: str | None, wanted: Filter) -> Response:
        direction, at = _parse(since)
        reader = None if request.requester is None else request.requester.user_id
        keys = await self._order()
        if direction == "f":
            ahead: Sequence[_Key] = keys if at is None else [key for key in keys if key > at]
        else:
            ahead = [key for key in reversed(keys) if at is None or key < at]
        found: list[tuple[_Key, dict[str, Any]]] = []
        searched = 0
        while searched < min(len(ahead), _MAX_SEARCHED) and len(found) < limit:
            page = ahead[searched : searched + (_PAGE if _filters(wanted) else min(_PAGE, limit - len(found)))]
            facts = {each.room_nid: each for each in (await self._facts(page, reader))}
            for key in page:
                searched += 1
                room = facts.get(key.room_nid)
                if room is not None and room.joined and _matches(wanted, room):
                    found.append((key, directory_entry(room)))
                    if len(found) == limit:
                        break
        more = searched < len(ahead)
        last = ahead[searched - 1] if searched else at
        if direction == "b":
            found.reverse()
        first = found[0][0] if found else last
        # The estimate is of all rooms, also with a filter: deployed clients count on it.
        body: dict[str, Any] = {"chunk": [entry for _, entry in found], "total_room_count_estimate": len(keys)}
        forward = last if direction == "f" else (found[-1][0] if found else at)
        backward = last if direction == "b" else first
        if forward is not None and (more if direction == "f" else at is not None):
            body["next_batch"] = forward.token("f")
        if backward is not None and (more if direction == "b" else at is not None):
            body["prev_batch"] = backward.token("b")
        return json_response(body)

    async def _facts(self, keys: Iterable[_Key], reader: UserId | None) -> Iterable[RoomFacts]:
        return (await get_facts_by_nid(self._database, [key.room_nid for key in keys], reader)).values()

    async def _order(self) -> list[_Key]:
        nids = await get_published_rooms(self._database, _MAX_PUBLISHED)
        now = self._clock.now_ms()
        if not 0 <= now - self._counted_ms < _COUNTS_LAST_MS:
            self._counts, self._counted_ms = {}, now
        elif nids == self._nids:
            return self._keys  # sorting many rooms takes long
        missing = [nid for nid in nids if nid not in self._counts]
        if missing:
            counts = await get_joined_counts(self._database, missing)
            self._counts |= {nid: counts.get(nid, 0) for nid in missing}
        self._nids = nids
        self._keys = sorted(_Key(-self._counts.get(nid, 0), nid) for nid in nids)
        return self._keys


def _filters(wanted: Filter) -> bool:
    return bool(wanted.generic_search_term) or wanted.room_types is not None


def _matches(wanted: Filter, room: RoomFacts) -> bool:
    if wanted.room_types is not None and room.room_type not in wanted.room_types:
        return False
    if not wanted.generic_search_term:
        return True
    term = fold(wanted.generic_search_term)
    texts = (
        room.text("m.room.name", "name"),
        room.text("m.room.topic", "topic"),
        room.text("m.room.canonical_alias", "alias"),
    )
    return any(text is not None and term in fold(text) for text in texts)


def _parse(token: str | None) -> tuple[str, _Key | None]:
    """Return the direction of a token and the key to begin after. Raises M_INVALID_PARAM."""
    if not token:
        return "f", None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid_param("since is not a token of this endpoint")
    return match[1], _Key(-int(match[2]), int(match[3]))
