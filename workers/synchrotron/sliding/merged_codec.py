"""PURE: the form of sliding sync in MSC4186 as merged, `POST /_matrix/client/v4/sync`."""

import re
from typing import Any

import msgspec

from shared.core.errors import invalid_param
from shared.core.identifiers import RoomId
from shared.core.presence import STATES, UNSET
from shared.http.request import Request
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
from workers.synchrotron.sliding.required_state import StateRequest
from workers.synchrotron.sliding.response import RoomResult, common_fields

#: Spec: appendices, "Opaque Identifiers".
_LIST_KEY = re.compile(r"[0-9A-Za-z._~-]{1,255}", re.ASCII)


class _Element(msgspec.Struct):
    type: str | None = None
    state_key: str | None = None


class _RequiredState(msgspec.Struct):
    include: list[_Element] = []
    exclude: list[_Element] = []
    lazy_members: bool = False


class _Room(msgspec.Struct):
    timeline_limit: Number
    required_state: _RequiredState


class _Filters(msgspec.Struct):
    is_dm: bool | None = None
    spaces: list[RoomId] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: list[str | None] | None = None
    not_room_types: list[str | None] | None = None
    tags: list[str] | None = None
    not_tags: list[str] | None = None


class _List(_Room):
    range: tuple[Number, Number] | None = None
    filters: _Filters | None = None


class _Body(msgspec.Struct):
    conn_id: str | None = None
    pos: str | None = None
    timeout: Number | None = None
    set_presence: str | None = None
    lists: dict[str, _List] | None = None
    room_subscriptions: dict[RoomId, _Room] | None = None
    extensions: dict[str, dict[str, Any]] | None = None


def parse(request: Request, limits: Limits) -> SlidingRequest:
    """Parse a request. Raises M_NOT_JSON, M_BAD_JSON, M_INVALID_PARAM."""
    body = request.decode(_Body)
    if body.set_presence is not None and body.set_presence not in STATES:
        raise invalid_param(f"set_presence must be one of: {', '.join(STATES)}")
    if any(not _LIST_KEY.fullmatch(key) for key in body.lists or ()):
        raise invalid_param("A list key must have 1 to 255 characters of 0-9 A-Z a-z . _ ~ -")
    lists = {
        key: ListRequest(
            _config(one, limits),
            _filter(one.filters or _Filters()),
            None if one.range is None else check_ranges([one.range]),
        )
        for key, one in (body.lists or {}).items()
    }
    subscriptions = {room_id: _config(one, limits) for room_id, one in (body.room_subscriptions or {}).items()}
    return check_request(
        SlidingRequest(
            conn_id=body.conn_id or "",
            pos=body.pos or None,
            timeout_s=timeout_s(body.timeout or 0, limits),
            lists=lists,
            subscriptions=subscriptions,
            unsubscribe=(),
            sticky=False,
            extensions=body.extensions or {},
            presence=body.set_presence or UNSET,
        )
    )


def _config(room: _Room, limits: Limits) -> RoomConfig:
    wanted = room.required_state
    wish = StateRequest(
        frozenset((one.type, one.state_key) for one in wanted.include),
        frozenset((one.type, one.state_key) for one in wanted.exclude),
        wanted.lazy_members,
    )
    return room_config(room.timeline_limit, wish, limits)


def _filter(filters: _Filters) -> RoomFilter:
    return check_filter(
        RoomFilter(
            is_dm=filters.is_dm,
            spaces=optional_set(filters.spaces),
            is_encrypted=filters.is_encrypted,
            is_invited=filters.is_invited,
            room_types=optional_set(filters.room_types),
            not_room_types=frozenset(filters.not_room_types or ()),
            tags=optional_set(filters.tags),
            not_tags=frozenset(filters.not_tags or ()),
        )
    )


def room_fields(room: RoomResult) -> dict[str, Any]:
    """Return one entry of `rooms`."""
    fields = common_fields(room)
    fields["membership"] = room.membership
    if room.lists:
        fields["lists"] = room.lists
    if room.stripped is not None:
        fields["stripped_state"] = room.stripped
    if room.expanded:
        fields["expanded_timeline"] = True
    if room.removed:
        stubs = [{"type": type_, "state_key": state_key} for type_, state_key in room.removed]
        fields["required_state"] = [*room.state, *stubs]
    return fields
