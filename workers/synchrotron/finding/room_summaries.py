"""GET /room_summary/{roomIdOrAlias} and GET /rooms/{roomId}/hierarchy: summaries of rooms that a user may find.

Rooms without a user of this server are unknown here. Spec: client-server API, "Room summaries", "Spaces".
"""

import hashlib
import re
from collections.abc import AsyncIterator, Collection
from typing import Any

from shared.core.errors import forbidden, invalid_param, not_found
from shared.core.identifiers import RoomId, UserId, check_room_id, parse_room_alias
from shared.core.room_summary import SPACE, RoomFacts, SpaceChild, child_order, may_find, room_summary
from shared.http.endpoint import CLIENT_V1, Auth, RateLimit, RoutingKey, Share
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.rooms.room_facts import get_facts, get_space_children
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import get_room_of_alias
from shared.storage.rooms.public_facts import get_memberships_in

_DEFAULT_LIMIT = 50
_MAX_LIMIT = 100
_MAX_DEPTH = 10
_MAX_WALKED = 2_000  # rooms walked in one tree, and rooms waiting; each page walks over the pages before it again
_TOKEN = re.compile(r"h1-([1-9][0-9]{0,6})-([0-9a-f]{16})", re.ASCII)


class RoomSummaries:
    def __init__(self, server_name: str, database: Database) -> None:
        self._server_name = server_name
        self._database = database

    @endpoint(
        name="get_room_summary",
        method="GET",
        path="/_matrix/client/{version}/room_summary/{roomIdOrAlias}",
        aliases=(
            "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}",
            "/_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary",
        ),
        versions=CLIENT_V1,
        pool="room_reads",
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1room_summaryroomidoralias",
    )
    async def get_room_summary(self, request: Request) -> Response:
        """GET /room_summary. Without an access token only for rooms that anyone may join, knock on or read.

        Raises M_NOT_FOUND, M_INVALID_PARAM.
        """
        room_id = await self._room_id(request.params["roomIdOrAlias"])
        user_id = None if request.requester is None else request.requester.user_id
        found = await self._known([room_id], user_id)
        if room_id not in found:
            raise not_found("The room does not exist, or you may not see it")
        facts, membership = found[room_id]
        summary = room_summary(facts)
        if user_id is not None:
            summary["membership"] = membership or "leave"
        return json_response(summary)

    @endpoint(
        name="get_hierarchy",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/hierarchy",
        versions=CLIENT_V1,
        pool="room_reads",
        share=Share.HIERARCHIES,
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv1roomsroomidhierarchy",
    )
    async def get_hierarchy(self, request: Request) -> Response:
        """GET /hierarchy. Raises M_FORBIDDEN, M_INVALID_PARAM."""
        room_id = check_room_id(request.params["roomId"])
        suggested_only = request.query_bool("suggested_only")
        limit = request.query_int("limit", _DEFAULT_LIMIT, minimum=1, maximum=_MAX_LIMIT)
        max_depth = request.query_int("max_depth", _MAX_DEPTH, maximum=_MAX_DEPTH)
        user_id = request.user.user_id
        bound_to = _parameters(room_id, user_id, suggested_only, max_depth)
        skip = _skipped(request.query_text("from"), bound_to)
        if room_id not in await self._known([room_id], user_id):
            raise forbidden("You may not see this room")
        rooms: list[dict[str, Any]] = []
        walked, more = 0, False
        async for room in self._walk(room_id, user_id, max_depth, suggested_only=suggested_only):
            walked += 1
            if walked <= skip:
                continue
            if len(rooms) == limit:
                more = True
                break
            rooms.append(room)
        body: dict[str, Any] = {"rooms": rooms}
        if more:
            body["next_batch"] = f"h1-{skip + len(rooms)}-{bound_to}"
        return json_response(body)

    async def _walk(
        self, root: RoomId, user_id: UserId, max_depth: int, *, suggested_only: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the rooms of the tree depth first, each once, even if spaces contain one another."""
        seen: set[RoomId] = set()
        facts, _ = (await self._known([root], user_id))[root]
        stack: list[tuple[RoomFacts, int]] = [(facts, 0)]
        while stack:
            facts, depth = stack.pop()
            if facts.room_id in seen:
                continue
            seen.add(facts.room_id)
            children: list[SpaceChild] = []
            if facts.room_type == SPACE:
                children = await get_space_children(self._database, facts, user_id)
                children = [child for child in children if child.is_valid]
                children = [child for child in children if child.is_suggested or not suggested_only]
                children.sort(key=child_order)
            yield {**room_summary(facts), "children_state": [child.stripped() for child in children]}
            if depth >= max_depth:
                continue
            new = [child.room_id for child in children if child.room_id not in seen][: _MAX_WALKED - len(stack)]
            known = await self._known(new, user_id)
            stack += [(known[room_id][0], depth + 1) for room_id in reversed(new) if room_id in known]
            if len(seen) >= _MAX_WALKED:
                return

    async def _known(
        self, room_ids: Collection[RoomId], user_id: UserId | None
    ) -> dict[RoomId, tuple[RoomFacts, str | None]]:
        """Return the rooms that the user may find, each with the user's membership."""
        known = await get_facts(self._database, room_ids, user_id)
        needed = {each for facts in known.values() for each in (facts.room_id, *facts.allowed_rooms)}
        memberships = await get_memberships_in(self._database, needed, user_id) if needed and user_id else {}
        found = {}
        for room_id, facts in known.items():
            membership = memberships.get(room_id)
            allowed = any(memberships.get(each) == "join" for each in facts.allowed_rooms)
            if facts.resident and may_find(facts, membership, in_allowed_room=allowed):
                found[room_id] = (facts, membership)
        return found

    async def _room_id(self, id_or_alias: str) -> RoomId:
        if not id_or_alias.startswith("#"):
            return check_room_id(id_or_alias)
        _, server = parse_room_alias(id_or_alias)
        local = server == self._server_name
        room_id = await get_room_of_alias(self._database, id_or_alias) if local else None
        if room_id is None:
            raise not_found("The room alias does not exist on this server")
        return room_id


def _parameters(room_id: RoomId, user_id: UserId, suggested_only: bool, max_depth: int) -> str:
    """Return a digest of the request's parameters. A token holds it, so that it is valid with the same ones only."""
    text = "\x00".join((room_id, user_id, str(suggested_only), str(max_depth)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _skipped(token: str | None, bound_to: str) -> int:
    """Return the number of rooms on the pages before a token. Raises M_INVALID_PARAM."""
    if token is None:
        return 0
    match = _TOKEN.fullmatch(token)
    if match is None or match[2] != bound_to:
        raise invalid_param("from is not a token of this endpoint, or belongs to a request with other parameters")
    return int(match[1])
