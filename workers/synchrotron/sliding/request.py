"""PURE: one request of sliding sync in either form, and the limits of requests. Spec: MSC4186, "Request Body"."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from shared.core.errors import invalid_param
from shared.core.identifiers import RoomId
from workers.synchrotron.sliding.required_state import Element, RequiredState, StateRequest, combine

MAX_LISTS = 20  # clients have up to ten; each one is built from all rooms of the user
MAX_SUBSCRIPTIONS = 100
MAX_RANGES = 100
MAX_ELEMENTS = 500  # in one required_state; values of one filter
_MAX_NAME_CHARS = 255  # event types, state keys and room ids are never longer
MAX_CONN_ID_CHARS = 255
MAX_LIST_KEY_CHARS = 255

#: Of a request, which stays in memory, parsed, while it waits. Those of present clients have 5 KB.
MAX_BODY_BYTES = 65_536

T = TypeVar("T")

#: Integers that every JSON implementation keeps exactly.
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
#: Both ends inclusive.
Range: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """The configured limits. Larger values in requests are lowered to them."""

    timeline_events: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class RoomConfig:
    """The parts of a room that a client wants."""

    timeline_limit: int
    required_state: RequiredState


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """A list's filter. A field that is None matches every room. Spec: MSC4186, SlidingRoomFilter."""

    is_dm: bool | None = None
    spaces: frozenset[RoomId] | None = None
    is_encrypted: bool | None = None
    is_invited: bool | None = None
    #: None among the types: rooms without a type.
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    #: In lower case.
    room_name_like: str | None = None


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A requested list."""

    config: RoomConfig
    filter: RoomFilter
    #: None: all rooms that pass the filter.
    ranges: tuple[Range, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingRequest:
    """A parsed request."""

    conn_id: str
    #: As text, None for a new connection.
    pos: str | None
    timeout_s: float
    lists: Mapping[str, ListRequest]
    #: The subscriptions in this request.
    subscriptions: Mapping[RoomId, RoomConfig]
    unsubscribe: Sequence[RoomId]
    #: True if subscriptions last until `unsubscribe` names their room. False: they hold for this request only.
    sticky: bool
    extensions: Mapping[str, Mapping[str, Any]]
    #: `set_presence`, "" without.
    presence: str


def timeout_s(timeout_ms: int, limits: Limits) -> float:
    """Return the timeout within the limit. Raises M_INVALID_PARAM."""
    if timeout_ms < 0:
        raise invalid_param("timeout must not be negative")
    return min(timeout_ms, limits.timeout_ms) / 1000


def optional_set(values: Collection[T] | None) -> frozenset[T] | None:
    return None if values is None else frozenset(values)


def room_config(timeline_limit: int, state: StateRequest, limits: Limits) -> RoomConfig:
    """Return the config within the limits. Raises M_INVALID_PARAM."""
    if timeline_limit < 0:
        raise invalid_param("timeline_limit must not be negative")
    if len(state.include) > MAX_ELEMENTS or len(state.exclude) > MAX_ELEMENTS:
        raise invalid_param(f"required_state may have at most {MAX_ELEMENTS} entries")
    possible = StateRequest(_possible(state.include), _possible(state.exclude), state.lazy)
    return RoomConfig(min(timeline_limit, limits.timeline_events), combine([possible]))


def _possible(elements: frozenset[Element]) -> frozenset[Element]:
    """Leave out elements that match no event, so that they do not take up stored states."""
    return frozenset(
        element for element in elements if all(name is None or len(name) <= _MAX_NAME_CHARS for name in element)
    )


def merge_configs(configs: Iterable[RoomConfig]) -> RoomConfig:
    """Return the config of a room that several configs apply to. Spec: MSC4186, "Combining room configs"."""
    distinct = list(dict.fromkeys(configs))
    if len(distinct) == 1:
        return distinct[0]
    parts = (part for config in distinct for part in config.required_state.parts)
    return RoomConfig(max(config.timeline_limit for config in distinct), combine(parts))


def check_ranges(ranges: Sequence[Sequence[int]]) -> tuple[Range, ...]:
    """Return the ranges of a list. Raises M_INVALID_PARAM."""
    if len(ranges) > MAX_RANGES:
        raise invalid_param(f"A list may have at most {MAX_RANGES} ranges")
    for one in ranges:
        if len(one) != 2 or not 0 <= one[0] <= one[1]:
            raise invalid_param("A range must be two integers of at least 0, the lower one first")
    return tuple((first, last) for first, last in ranges)


def check_filter(filter: RoomFilter) -> RoomFilter:
    """Return the filter if it is within the limits. Raises M_INVALID_PARAM."""
    many = (filter.spaces, filter.room_types, filter.not_room_types, filter.tags, filter.not_tags)
    if any(values is not None and len(values) > MAX_ELEMENTS for values in many):
        raise invalid_param(f"A filter may have at most {MAX_ELEMENTS} values in one field")
    return filter


def check_request(request: SlidingRequest) -> SlidingRequest:
    """Return the request if it is within the limits. Raises M_INVALID_PARAM. Spec: MSC4186, "Top-level"."""
    if len(request.lists) > MAX_LISTS:
        raise invalid_param(f"A request may have at most {MAX_LISTS} lists")
    if len(request.subscriptions) > MAX_SUBSCRIPTIONS:
        raise invalid_param(f"A request may have at most {MAX_SUBSCRIPTIONS} room subscriptions")
    if any(len(room_id) > _MAX_NAME_CHARS for room_id in request.subscriptions):
        raise invalid_param(f"A room id in room_subscriptions has more than {_MAX_NAME_CHARS} characters")
    if any(not 0 < len(key) <= MAX_LIST_KEY_CHARS for key in request.lists):
        raise invalid_param(f"A list key must have 1 to {MAX_LIST_KEY_CHARS} characters")
    if len(request.conn_id) > MAX_CONN_ID_CHARS or "\x00" in request.conn_id:
        raise invalid_param(f"conn_id may have at most {MAX_CONN_ID_CHARS} characters and no NUL")
    return request
