"""A client's filter, from its JSON.

Spec: client-server API, "Filtering", definitions sync_filter and room_event_filter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.core.errors import bad_json
from shared.core.filters.event_filter import OLD_THREAD_NOTIFICATIONS, THREAD_NOTIFICATIONS, EventFilter
from shared.core.filters.wildcard import type_patterns
from shared.core.identifiers import RoomId
from shared.core.property_path import split_path

#: The most entries in a list. Filters are in memory during each sync and are matched against every event.
MAX_LIST_ENTRIES = 1000
#: The most paths in `event_fields`. Each one is looked up in every event.
MAX_EVENT_FIELDS = 100
#: The longest type pattern or id. Ids are shorter, and types in events have at most 255 bytes.
MAX_ENTRY_CHARS = 512
_MAX_LIMIT = 2**31 - 1

_EVERYTHING = EventFilter()

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """The `room` part of a filter. rooms: None means all. It applies before the filters of each section."""

    rooms: frozenset[RoomId] | None = None
    not_rooms: frozenset[RoomId] = frozenset()
    include_leave: bool = False
    timeline: EventFilter = _EVERYTHING
    state: EventFilter = _EVERYTHING
    ephemeral: EventFilter = _EVERYTHING
    account_data: EventFilter = _EVERYTHING

    def match_room(self, room_id: RoomId) -> bool:
        """Return True if the room is shown at all."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


_EVERY_ROOM = RoomFilter()


@dataclass(frozen=True, slots=True)
class Filter:
    """A whole filter; `Filter()` passes everything.

    event_fields: None for all fields, else paths as tuples of keys, such as ("content", "body").
    federation_format: True if events keep the form in which servers exchange them.
    """

    event_fields: tuple[tuple[str, ...], ...] | None = None
    federation_format: bool = False
    presence: EventFilter = _EVERYTHING
    account_data: EventFilter = _EVERYTHING
    room: RoomFilter = _EVERY_ROOM


def parse_filter(obj: Any) -> Filter:
    """Return the filter in a decoded JSON value. Unknown keys are ignored.

    Raises MatrixError 400 M_BAD_JSON, naming the key, for wrong types, ill-formed ids, over-long lists and too many
    wildcards.
    """
    top = _object(obj, "filter")
    event_format = top.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise bad_json("event_format must be client or federation")
    fields = _strings(top, "event_fields", "")
    if fields is not None and len(fields) > MAX_EVENT_FIELDS:
        raise bad_json(f"event_fields must have at most {MAX_EVENT_FIELDS} entries")
    return Filter(
        event_fields=None if fields is None else tuple(split_path(path) for path in fields),
        federation_format=event_format == "federation",
        presence=_event_filter(top, "presence"),
        account_data=_event_filter(top, "account_data"),
        room=_room_filter(_object(top.get("room", {}), "room")),
    )


def parse_room_event_filter(obj: Any) -> EventFilter:
    """Return the `RoomEventFilter` in a decoded JSON value, as /messages, /context and /search take it.

    Raises MatrixError 400 M_BAD_JSON, naming the key.
    """
    return _event_filter({"filter": obj}, "filter")


def _room_filter(room: Mapping[str, Any]) -> RoomFilter:
    rooms = _strings(room, "rooms", "!")
    return RoomFilter(
        rooms=None if rooms is None else _room_ids(rooms),
        not_rooms=_room_ids(_strings(room, "not_rooms", "!") or ()),
        include_leave=_flag(room, "include_leave") or False,
        timeline=_event_filter(room, "timeline"),
        state=_event_filter(room, "state"),
        ephemeral=_event_filter(room, "ephemeral"),
        account_data=_event_filter(room, "account_data"),
    )


def _event_filter(parent: Mapping[str, Any], name: str) -> EventFilter:
    given = _object(parent.get(name, {}), name)
    return EventFilter(
        limit=_limit(given),
        types=_optional(_strings(given, "types", ""), type_patterns),
        not_types=_optional(_strings(given, "not_types", ""), type_patterns),
        senders=_optional(_strings(given, "senders", "@"), frozenset),
        not_senders=frozenset(_strings(given, "not_senders", "@") or ()),
        rooms=_optional(_strings(given, "rooms", "!"), _room_ids),
        not_rooms=_room_ids(_strings(given, "not_rooms", "!") or ()),
        contains_url=_flag(given, "contains_url"),
        lazy_load_members=_flag(given, "lazy_load_members") or False,
        include_redundant_members=_flag(given, "include_redundant_members") or False,
        unread_thread_notifications=_flag(given, THREAD_NOTIFICATIONS) or False,
        old_thread_notifications=_flag(given, OLD_THREAD_NOTIFICATIONS) or False,
        rel_types=_optional(_strings(given, "org.matrix.msc3874.rel_types", ""), frozenset),
        not_rel_types=frozenset(_strings(given, "org.matrix.msc3874.not_rel_types", "") or ()),
    )


def _optional(value: _In | None, make: Callable[[_In], _Out]) -> _Out | None:
    return None if value is None else make(value)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad_json(f"{name} must be an object")
    return value


def _room_ids(texts: tuple[str, ...]) -> frozenset[RoomId]:
    return frozenset(map(RoomId, texts))


def _strings(parent: Mapping[str, Any], name: str, sigil: str) -> tuple[str, ...] | None:
    """Return the list of texts under a key, None where the key is absent.

    sigil: what each must begin with.
    """
    if name not in parent:
        return None
    value = parent[name]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise bad_json(f"{name} must be a list of strings")
    if len(value) > MAX_LIST_ENTRIES or any(len(entry) > MAX_ENTRY_CHARS for entry in value):
        raise bad_json(f"{name} must have at most {MAX_LIST_ENTRIES} entries of {MAX_ENTRY_CHARS} characters")
    if not all(entry.startswith(sigil) for entry in value):
        raise bad_json(f"the entries of {name} must begin with {sigil}")
    return tuple(value)


def _flag(parent: Mapping[str, Any], name: str) -> bool | None:
    value = parent.get(name)
    if name in parent and not isinstance(value, bool):
        raise bad_json(f"{name} must be true or false")
    return value


def _limit(parent: Mapping[str, Any]) -> int | None:
    # The spec says "greater than 0", yet clients in use send 0 to ask for none; negative numbers are errors.
    if "limit" not in parent:
        return None
    value = parent["limit"]
    if type(value) is not int or not 0 <= value <= _MAX_LIMIT:
        raise bad_json("limit must be a whole number")
    return value
