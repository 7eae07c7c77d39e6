"""POST /search: words in the messages, names and topics of a user's rooms.

The response, counts included, has only events that the history visibility lets the user see.
Spec: client-server API, "Server Side Search".
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import orjson

from shared.core.errors import MatrixError, invalid_param
from shared.core.filters import EventFilter, parse_room_event_filter
from shared.core.history_point import point_after
from shared.core.identifiers import RoomId, UserId
from shared.core.search.event_text import KEYS, split_words
from shared.http.endpoint import RateLimit, Share
from shared.http.request import Request, Response, convert, json_response
from shared.http.serving import endpoint
from shared.rooms.aggregations import shown_events
from shared.rooms.erased_events import strip_erased
from shared.rooms.history_page import HistoryPages
from shared.rooms.history_tokens import format_point
from shared.rooms.room_facts import get_facts
from shared.rooms.room_state import state_events, state_forms, state_rows
from shared.rooms.room_view import RoomView, load_branches, open_room
from shared.rooms.shown_event import Reader, matches, shown_event
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from shared.runtime.clock import Clock
from shared.storage.accounts.erased_users import get_erased_users
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import get_events_by_nid
from shared.storage.rooms.memberships import RoomMembership, get_memberships_of_user
from shared.storage.search.event_words import Hit, get_encrypted_rooms, search_words
from shared.storage.user_data.account_data import get_ignored_users

_DEFAULT_LIMIT = 10
_MAX_RESULTS = 50
_MAX_HITS = 500  # the best ones of a search, over all pages
_MAX_WORDS = 20
_MAX_TERM_CHARS = 500
_MAX_CONTEXT = 10
_MAX_ROOMS = 5_000
_MAX_VIEWS = 50  # rooms whose visibility for the user must be read
_MAX_PREDECESSORS = 20
_MAX_TOKEN_CHARS = 2_000


class Context(msgspec.Struct):
    before_limit: Annotated[int, msgspec.Meta(ge=0)] = 5
    after_limit: Annotated[int, msgspec.Meta(ge=0)] = 5
    include_profile: bool = False


class Group(msgspec.Struct):
    key: Literal["room_id", "sender"]


class Groupings(msgspec.Struct):
    group_by: Annotated[list[Group], msgspec.Meta(max_length=2)] = []


class RoomEvents(msgspec.Struct):
    """The search for events. `skep.include_predecessors` is an extension of this server."""

    search_term: str
    keys: list[Literal["content.body", "content.name", "content.topic"]] | None = None
    filter: dict[str, Any] = {}
    order_by: Literal["rank", "recent"] = "rank"
    event_context: Context | None = None
    include_state: bool = False
    groupings: Groupings = msgspec.field(default_factory=Groupings)
    #: Search the predecessors of the filter's rooms too.
    include_predecessors: bool = msgspec.field(default=False, name="skep.include_predecessors")


class Categories(msgspec.Struct):
    room_events: RoomEvents | None = None


class SearchBody(msgspec.Struct):
    search_categories: Categories


@dataclass(frozen=True, slots=True)
class _From:
    """The beginning of a page."""

    skip: int = 0
    #: The group that the page is limited to, "" for none.
    kind: str = ""
    value: str = ""


class Search:
    """The handler of the endpoint."""

    def __init__(self, database: Database, pages: HistoryPages, clock: Clock) -> None:
        self._database = database
        self._pages = pages
        self._clock = clock

    @endpoint(
        name="search",
        method="POST",
        path="/_matrix/client/{version}/search",
        api_v1=True,
        pool="room_reads",
        share=Share.SEARCHES,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#post_matrixclientv3search",
    )
    async def search(self, request: Request) -> Response:
        """POST /search. Raises M_BAD_JSON, M_INVALID_PARAM."""
        body = request.json_object()
        criteria = convert(body, SearchBody).search_categories.room_events
        if criteria is None:
            return json_response({"search_categories": {}})
        if len(criteria.search_term) > _MAX_TERM_CHARS:
            raise invalid_param(f"search_term may have at most {_MAX_TERM_CHARS} characters")
        wanted = parse_room_event_filter(criteria.filter)
        user_id = request.user.user_id
        bound_to = hashlib.sha256(orjson.dumps([user_id, body])).hexdigest()[:16]
        start = _parse_token(request.query_text("next_batch"), bound_to)
        rooms = await self._rooms(user_id, wanted, criteria)
        words = list(dict.fromkeys(split_words(criteria.search_term, is_query=True).split()))
        if len(words) > _MAX_WORDS:
            raise invalid_param(f"search_term may have at most {_MAX_WORDS} words")
        keys = [KEYS.index(key) for key in (criteria.keys if criteria.keys is not None else KEYS)]
        recent = criteria.order_by == "recent"
        hits = await search_words(self._database, rooms, words, keys, _MAX_HITS, recent=recent)
        views: dict[int, RoomView] = {}
        hits = await self._visible(hits, rooms, user_id, wanted, views)
        ids = {nid: membership.room_id for nid, membership in rooms.items()}
        here = [hit for hit in hits if not start.kind or _group_of(hit, start.kind, ids) == start.value]
        limit = min(_DEFAULT_LIMIT if wanted.limit is None else wanted.limit, _MAX_RESULTS)
        page = here[start.skip : start.skip + limit]
        reader = Reader.of(request.user, self._clock.now_ms())
        found = await self._load(page, ids, user_id, wanted, views)
        results = [await self._result(hit, event, views[hit.room_nid], reader, criteria) for hit, event in found]
        answer: dict[str, Any] = {"count": len(hits), "results": results, "highlights": words}
        if limit and len(here) > start.skip + limit:
            answer["next_batch"] = _token(_From(start.skip + limit, start.kind, start.value), bound_to)
        if criteria.groupings.group_by:
            shown = {hit.event_nid: event.event_id for hit, event in found}
            kinds = dict.fromkeys(group.key for group in criteria.groupings.group_by)
            answer["groups"] = {kind: _groups(kind, here, shown, ids, bound_to) for kind in kinds}
        if criteria.include_state:
            nids = dict.fromkeys(hit.room_nid for hit, _ in found)
            answer["state"] = {ids[nid]: await self._state(views[nid], found, reader) for nid in nids}
        return json_response({"search_categories": {"room_events": answer}})

    async def _rooms(self, user_id: UserId, wanted: EventFilter, criteria: RoomEvents) -> dict[int, RoomMembership]:
        """Return the rooms to search: the user's current and former rooms, without encrypted and forgotten ones."""
        only = wanted.rooms
        if only is not None and criteria.include_predecessors:
            only = await self._with_predecessors(only)
        memberships = [
            one
            for one in await get_memberships_of_user(self._database, user_id)
            if one.membership in ("join", "leave", "ban")
            and not one.forgotten
            and one.room_id not in wanted.not_rooms
            and (only is None or one.room_id in only)
        ]
        memberships.sort(key=lambda one: one.position, reverse=True)
        rooms = {one.room_nid: one for one in memberships[:_MAX_ROOMS]}
        encrypted = await get_encrypted_rooms(self._database, rooms) if rooms else set()
        return {nid: one for nid, one in rooms.items() if nid not in encrypted}

    async def _with_predecessors(self, room_ids: frozenset[RoomId]) -> frozenset[RoomId]:
        """Return the rooms and those that they were upgraded from, as their create events say."""
        found, new = set(room_ids), set(room_ids)
        for _ in range(_MAX_PREDECESSORS):
            if not new or len(found) > _MAX_ROOMS:
                break
            former = set[RoomId]()
            for facts in (await get_facts(self._database, new, None)).values():
                predecessor = facts.contents.get("m.room.create", {}).get("predecessor")
                room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
                if isinstance(room_id, str):
                    former.add(RoomId(room_id))
            new = former - found
            found |= new
        return frozenset(found)

    async def _visible(
        self,
        hits: Sequence[Hit],
        rooms: Mapping[int, RoomMembership],
        user_id: UserId,
        wanted: EventFilter,
        views: dict[int, RoomView],
    ) -> list[Hit]:
        """Return the hits that the user may see and wants, in the same order. Opened rooms are added to `views`."""
        ignored = await get_ignored_users(self._database, user_id) if hits else frozenset()
        hits = [
            hit
            for hit in hits
            if wanted.match_type(hit.type)
            and hit.sender not in wanted.not_senders
            and (wanted.senders is None or hit.sender in wanted.senders)
            and not (hit.sender in ignored and hit.state_key is None)
        ]
        doubtful = [hit for hit in hits if not _is_while_joined(hit, rooms[hit.room_nid])]
        # Events of erased users are left out unless the user was joined: a hit would disclose their words.
        erased = await get_erased_users(self._database, {hit.sender for hit in doubtful})
        for nid in list(dict.fromkeys(hit.room_nid for hit in doubtful))[:_MAX_VIEWS]:
            await self._open(nid, rooms[nid].room_id, user_id, views)
            if nid in views:
                await load_branches(self._database, views[nid], [hit for hit in doubtful if hit.room_nid == nid])
        hidden = {
            (hit.room_nid, hit.event_nid)
            for hit in doubtful
            if hit.room_nid not in views or hit.sender in erased or not views[hit.room_nid].view.may_see(hit)
        }
        return [hit for hit in hits if (hit.room_nid, hit.event_nid) not in hidden]

    async def _open(self, room_nid: int, room_id: RoomId, user_id: UserId, views: dict[int, RoomView]) -> None:
        if room_nid not in views:
            try:
                views[room_nid] = await open_room(self._database, room_id, user_id)
            except MatrixError:
                return  # the user forgot the room meanwhile, or it was deleted

    async def _load(
        self,
        page: Sequence[Hit],
        ids: Mapping[int, RoomId],
        user_id: UserId,
        wanted: EventFilter,
        views: dict[int, RoomView],
    ) -> list[tuple[Hit, TimelineEvent]]:
        """Return the hits with their events, without those that were redacted meanwhile."""
        events: dict[tuple[int, int], TimelineEvent] = {}
        for nid in dict.fromkeys(hit.room_nid for hit in page):
            await self._open(nid, ids[nid], user_id, views)
            if nid not in views:
                continue
            rows = await get_events_by_nid(self._database, nid, [hit.event_nid for hit in page if hit.room_nid == nid])
            await load_branches(self._database, views[nid], rows)
            for event in map(views[nid].event, rows):
                # Checked again on the current event, which may have been redacted meanwhile.
                if event.redacted_because is None and views[nid].shows(event) and matches(wanted, event, ids[nid]):
                    events[nid, event.event_nid] = event
        keyed = [(hit, events.get((hit.room_nid, hit.event_nid))) for hit in page]
        return [(hit, event) for hit, event in keyed if event is not None]

    async def _result(
        self, hit: Hit, event: TimelineEvent, room: RoomView, reader: Reader, criteria: RoomEvents
    ) -> dict[str, Any]:
        around = criteria.event_context
        if around is None:
            (encoded,) = await shown_events(self._database, room, [event], reader)
            return {"rank": hit.rank, "result": encoded}
        everything = EventFilter()
        before = await self._pages.back(room, event.point, min(around.before_limit, _MAX_CONTEXT), everything)
        point = point_after(event.point)
        after = await self._pages.forward(room, point, min(around.after_limit, _MAX_CONTEXT), everything)
        shown = await strip_erased(self._database, room, [*before.events, event, *after.events])
        encoded_all = await shown_events(self._database, room, shown, reader)
        count = len(before.events)
        context: dict[str, Any] = {
            "start": format_point(*before.next_point),
            "end": format_point(*after.next_point),
            "events_before": encoded_all[:count],
            "events_after": encoded_all[count + 1 :],
        }
        if around.include_profile:
            context["profile_info"] = await self._profiles(room, shown)
        return {"rank": hit.rank, "result": encoded_all[count], "context": context}

    async def _profiles(self, room: RoomView, events: Sequence[TimelineEvent]) -> dict[str, Any]:
        """Return the senders' profiles in the room as of the latest of the events."""
        last = max(event.ordinal for event in events)
        keys = [(MEMBER, sender) for sender in dict.fromkeys(event.sender for event in events)]
        profiles: dict[str, Any] = {}
        for event in await state_events(self._database, room, keys, before=last + 1):
            if event.redacted_because is not None:
                continue
            member = event.content()
            profile = {key: member.get(key) for key in ("displayname", "avatar_url")}
            assert event.state_key is not None
            profiles[event.state_key] = {key: value for key, value in profile.items() if isinstance(value, str)}
        return profiles

    async def _state(self, room: RoomView, found: Sequence[tuple[Hit, TimelineEvent]], reader: Reader) -> list[Any]:
        """Return the room's state as the user may see it. Its members are those who sent the events found."""
        forms = await state_forms(self._database, room)
        state = [forms.event(row) for row in await state_rows(self._database, room, members=False)]
        senders = dict.fromkeys(event.sender for hit, event in found if hit.room_nid == room.room_nid)
        keys = [(MEMBER, sender) for sender in senders]
        state += await state_events(self._database, room, keys, before=room.end + 1)
        return [shown_event(event, reader, room.view, room_id=room.room_id, in_state=True) for event in state]


def _is_while_joined(hit: Hit, membership: RoomMembership) -> bool:
    """Return True if the user was joined from before the event until now, and so may see it."""
    return membership.membership == "join" and hit.ordinal > membership.ordinal and hit.state_nid is None


def _group_of(hit: Hit, kind: str, ids: Mapping[int, RoomId]) -> str:
    return ids[hit.room_nid] if kind == "room_id" else hit.sender


def _groups(
    kind: str, hits: Sequence[Hit], shown: Mapping[int, str], ids: Mapping[int, RoomId], bound_to: str
) -> dict[str, Any]:
    """Return the groups of a page's results, in order. hits: of all pages."""
    groups: dict[str, Any] = {}
    for hit in hits:
        if hit.event_nid in shown:
            value = _group_of(hit, kind, ids)
            group = groups.setdefault(value, {"order": len(groups), "results": []})
            group["results"].append(shown[hit.event_nid])
    for value, group in groups.items():
        in_group = [hit for hit in hits if _group_of(hit, kind, ids) == value]
        on_page = [index for index, hit in enumerate(in_group) if hit.event_nid in shown]
        # A group's own pages continue after its last result here. They may repeat results of other pages.
        if on_page and on_page[-1] + 1 < len(in_group):
            group["next_batch"] = _token(_From(on_page[-1] + 1, kind, value), bound_to)
    return groups


def _token(start: _From, bound_to: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([start.skip, start.kind, start.value, bound_to])).decode().rstrip("=")


def _parse_token(token: str | None, bound_to: str) -> _From:
    """Return the beginning of a page. Raises M_INVALID_PARAM for a token of another search."""
    if token is None:
        return _From()
    try:
        if len(token) > _MAX_TOKEN_CHARS:
            raise ValueError
        skip, kind, value, bound = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError):
        raise invalid_param("next_batch is not a token of this endpoint") from None
    if bound != bound_to or type(skip) is not int or skip < 0 or kind not in ("", "room_id", "sender"):
        raise invalid_param("next_batch belongs to another search")
    return _From(skip, kind, str(value))
