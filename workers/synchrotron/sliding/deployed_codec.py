"""PURE: the form of sliding sync that today's clients speak, `org.matrix.simplified_msc3575`.

It is the draft of MSC4186 that was deployed, with remains of MSC3575: `pos` and `timeout` in the query, pairs for
`required_state`, several `ranges`, and subscriptions that last until `unsubscribe_rooms`. matrix-js-sdk 43 sends each
subscription once. Clients that repeat them get the same results.
"""

from typing import Any

import msgspec

from shared.core.errors import invalid_param
from shared.core.identifiers import RoomId
from shared.core.presence import STATES, UNSET
from shared.core.search.folding import fold
from shared.http.request import Request
from shared.rooms.timeline_event import MEMBER
from workers.synchrotron.sliding.request import (
    Limits,
    ListRequest,
    Number,
    RoomConfig,
    RoomFilter,
    SlidingRequest,
    check_filter,
    check_ranges,
    check_request,
    optional_set,
    room_config,
    timeout_s,
)
from workers.synchrotron.sliding.required_state import Element, StateRequest
from workers.synchrotron.sliding.response import RoomResult, common_fields

_ANY, _LAZY, _ME = "*", "$LAZY", "$ME"
_MAX_UNSUBSCRIBED = 1000


class _Room(msgspec.Struct):
    timeline_limit: Number = 0
    required_state: list[tuple[str, str]] | None = None


class _Filters(msgspec.Struct):
    is_dm: bool | None = None
    spaces: list[RoomId] | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    room_name_like: str | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


class _List(_Room):
    ranges: list[tuple[Number, Number]] | None = None
    filters: _Filters | None = None


class _Body(msgspec.Struct):
    conn_id: str | None = None
    lists: dict[str, _List] | None = None
    room_subscriptions: dict[RoomId, _Room] | None = None
    unsubscribe_rooms: list[RoomId] | None = None
    extensions: dict[str, dict[str, Any]] | None = None


def parse(request: Request, limits: Limits) -> SlidingRequest:
    """Parse a request. Raises M_NOT_JSON, M_BAD_JSON, M_INVALID_PARAM."""
    presence = request.query_choice("set_presence", STATES) or UNSET
    pos, timeout_ms = request.query_text("pos") or None, request.query_int("timeout", 0)
    body = request.decode(_Body, empty_ok=True)
    me = request.user.user_id
    lists = {
        key: ListRequest(
            _config(one, me, limits),
            _filter(one.filters or _Filters()),
            None if one.ranges is None else check_ranges(one.ranges),
        )
        for key, one in (body.lists or {}).items()
    }
    subscriptions = {room_id: _config(one, me, limits) for room_id, one in (body.room_subscriptions or {}).items()}
    unsubscribe = body.unsubscribe_rooms or []
    if len(unsubscribe) > _MAX_UNSUBSCRIBED:
        raise invalid_param(f"unsubscribe_rooms may name at most {_MAX_UNSUBSCRIBED} rooms")
    return check_request(
        SlidingRequest(
            conn_id=body.conn_id or "",
            pos=pos,
            timeout_s=timeout_s(timeout_ms, limits),
            lists=lists,
            subscriptions=subscriptions,
            unsubscribe=unsubscribe,
            sticky=True,
            extensions=body.extensions or {},
            presence=presence,
        )
    )


def _config(room: _Room, me: str, limits: Limits) -> RoomConfig:
    include: set[Element] = set()
    lazy = False
    for type_, state_key in room.required_state or ():
        if (type_, state_key) == (MEMBER, _LAZY):
            lazy = True
            continue
        wanted_key = me if state_key == _ME else state_key
        include.add((None if type_ == _ANY else type_, None if wanted_key == _ANY else wanted_key))
    return room_config(room.timeline_limit, StateRequest(frozenset(include), lazy=lazy), limits)


def _filter(filters: _Filters) -> RoomFilter:
    return check_filter(
        RoomFilter(
            is_dm=filters.is_dm,
            spaces=optional_set(filters.spaces),
            is_encrypted=filters.is_encrypted,
            is_invited=filters.is_invite,
            room_types=optional_set(filters.room_types),
            not_room_types=frozenset(filters.not_room_types or ()),
            tags=optional_set(filters.tags),
            not_tags=frozenset(filters.not_tags or ()),
            room_name_like=fold(filters.room_name_like) if filters.room_name_like else None,
        )
    )


def room_fields(room: RoomResult) -> dict[str, Any]:
    """Return one entry of `rooms`. This form cannot express that a key left the state."""
    fields = common_fields(room)
    if room.stripped is not None:
        # Clients take every room with `invite_state` for an invitation. They learn of its end by the member event.
        if room.membership in ("invite", "knock"):
            fields["invite_state"] = room.stripped
        else:
            fields["required_state"] = room.ended
        return fields
    if room.expanded:
        fields["unstable_expanded_timeline"] = True
        # matrix-js-sdk 43 looks for known events only in limited timelines.
        fields["limited"] = True
    if room.counts is not None:
        fields["notification_count"], fields["highlight_count"] = room.counts
    return fields
