"""PURE: one request of sliding sync, whichever of its forms it came in. Spec: MSC4186, "Request Body".

Also the one place that says how much a request may ask for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from shared.core.errors import invalid_param
from workers.synchrotron.sliding.required_state import Element, RequiredState, StateWish, combine

MAX_LISTS = 100
MAX_SUBSCRIPTIONS = 100
MAX_RANGES = 100
MAX_ELEMENTS = 500  # of one required_state, and values of one filter
_MAX_NAME_CHARS = 255  # no event has a longer type or state key, no room a longer id
MAX_CONN_ID_CHARS = 255
MAX_LIST_KEY_CHARS = 255

T = TypeVar("T")

#: What JSON keeps exactly everywhere.
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
#: Both ends inclusive.
Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """As configured: what is asked for above them is lowered to them."""

    timeline_events: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """What to tell of a room."""

    timeline_limit: int
    required_state: RequiredState


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """None: whatever it is. room_types, not_room_types: None among them is a room without a type.

    room_name_like: in lower case. Spec: MSC4186, SlidingRoomFilter.
    """

    is_dm: bool | None = None
    spaces: frozenset[str] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    room_name_like: str | None = None


@dataclass(frozen=True, slots=True)
class ListRequest:
    """ranges None: all rooms that pass the filter."""

    config: RoomConfig
    filter: RoomFilter
    ranges: tuple[Range, ...] | None


@dataclass(frozen=True, slots=True)
class SlidingRequest:
    """pos: as it came, None: a new connection. subscriptions: those that this request names.

    sticky: subscriptions stay until `unsubscribe` names their room, else they hold for this request only.
    presence: `set_presence`, "" without.
    """

    conn_id: str
    pos: str | None
    timeout_s: float
    lists: Mapping[str, ListRequest]
    subscriptions: Mapping[str, RoomConfig]
    unsubscribe: Sequence[str]
    sticky: bool
    extensions: Mapping[str, Mapping[str, Any]]
    presence: str


def timeout_s(timeout_ms: int, limits: Limits) -> float:
    """Raises M_INVALID_PARAM."""
    if timeout_ms < 0:
        raise invalid_param("timeout must not be negative")
    return min(timeout_ms, limits.timeout_ms) / 1000


def optional_set(values: Collection[T] | None) -> frozenset[T] | None:
    return None if values is None else frozenset(values)


def room_config(timeline_limit: int, wish: StateWish, limits: Limits) -> RoomConfig:
    """Raises M_INVALID_PARAM."""
    if timeline_limit < 0:
        raise invalid_param("timeline_limit must not be negative")
    if len(wish.include) > MAX_ELEMENTS or len(wish.exclude) > MAX_ELEMENTS:
        raise invalid_param(f"required_state may have at most {MAX_ELEMENTS} entries")
    possible = StateWish(_possible(wish.include), _possible(wish.exclude), wish.lazy)
    return RoomConfig(min(timeline_limit, limits.timeline_events), combine([possible]))


def _possible(elements: frozenset[Element]) -> frozenset[Element]:
    """Leave out what matches nothing: a state that is kept must not grow by it."""
    return frozenset(
        element for element in elements if all(name is None or len(name) <= _MAX_NAME_CHARS for name in element)
    )


def merge_configs(one: RoomConfig, other: RoomConfig) -> RoomConfig:
    """Spec: MSC4186, "Combining room configs"."""
    if one == other:
        return one
    wishes = (*one.required_state.wishes, *other.required_state.wishes)
    return RoomConfig(max(one.timeline_limit, other.timeline_limit), combine(wishes))


def check_ranges(ranges: Sequence[Sequence[int]]) -> tuple[Range, ...]:
    """Raises M_INVALID_PARAM."""
    if len(ranges) > MAX_RANGES:
        raise invalid_param(f"A list may have at most {MAX_RANGES} ranges")
    for one in ranges:
        if len(one) != 2 or not 0 <= one[0] <= one[1]:
            raise invalid_param("A range must be two whole numbers, neither negative, the lower first")
    return tuple((first, last) for first, last in ranges)


def check_filter(filter: RoomFilter) -> RoomFilter:
    """Raises M_INVALID_PARAM."""
    many = (filter.spaces, filter.room_types, filter.not_room_types, filter.tags, filter.not_tags)
    if any(values is not None and len(values) > MAX_ELEMENTS for values in many):
        raise invalid_param(f"A filter may name at most {MAX_ELEMENTS} values of a kind")
    return filter


def check_request(request: SlidingRequest) -> SlidingRequest:
    """Raises M_INVALID_PARAM. Spec: MSC4186, "Top-level"."""
    if len(request.lists) > MAX_LISTS:
        raise invalid_param(f"At most {MAX_LISTS} lists are served")
    if len(request.subscriptions) > MAX_SUBSCRIPTIONS:
        raise invalid_param(f"At most {MAX_SUBSCRIPTIONS} room subscriptions are served")
    if any(len(room_id) > _MAX_NAME_CHARS for room_id in request.subscriptions):
        raise invalid_param("A room id is too long")
    if any(not 0 < len(key) <= MAX_LIST_KEY_CHARS for key in request.lists):
        raise invalid_param(f"A list's key must have 1 to {MAX_LIST_KEY_CHARS} characters")
    if len(request.conn_id) > MAX_CONN_ID_CHARS or "\x00" in request.conn_id:
        raise invalid_param(f"conn_id may have at most {MAX_CONN_ID_CHARS} characters")
    return request
