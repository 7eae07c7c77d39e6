"""One event filter of a client, as values ready to match. Spec: client-server API, "Filtering"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.filters.wildcard import TypePatterns
from shared.core.identifiers import RoomId, UserId

#: A key of filters and of the answer. The second is its name before v1.4 (MSC3773).
THREAD_NOTIFICATIONS = "unread_thread_notifications"
OLD_THREAD_NOTIFICATIONS = "org.matrix.msc3773.unread_thread_notifications"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """`EventFilter` and `RoomEventFilter` of the spec in one. Keys that do not apply keep their defaults.

    An empty list matches nothing. None means:
        types, senders, rooms: all.
        contains_url: with or without a url.
        limit: the default of the endpoint; a limit of 0 asks for no events.
    """

    limit: int | None = None
    types: TypePatterns | None = None
    not_types: TypePatterns | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    rooms: frozenset[RoomId] | None = None
    not_rooms: frozenset[RoomId] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    old_thread_notifications: bool = False
    rel_types: frozenset[str] | None = None
    not_rel_types: frozenset[str] = frozenset()

    @property
    def thread_notifications_key(self) -> str | None:
        """Return the key for unread counts of threads in the answer, or None if the client does not ask for them."""
        if self.unread_thread_notifications:
            return THREAD_NOTIFICATIONS
        return OLD_THREAD_NOTIFICATIONS if self.old_thread_notifications else None

    @property
    def passes_all(self) -> bool:
        """True if `match` is true of every event. Then no event needs decoding to be filtered."""
        return (
            self.types is None
            and self.not_types is None
            and self.senders is None
            and not self.not_senders
            and self.rooms is None
            and not self.not_rooms
            and self.contains_url is None
            and self.rel_types is None
            and not self.not_rel_types
        )

    def match(
        self,
        *,
        type: str,
        sender: UserId | None = None,
        room_id: RoomId | None = None,
        content: Mapping[str, Any] | None = None,
        rel_type: str | None = None,
    ) -> bool:
        """Return True if the filter passes the event.

        sender, room_id: None if there is none, as account data has no sender. The conditions on it are skipped.
        content: needed for `contains_url` only. None counts as without a url.
        rel_type: the type of the event's relation to another one, None without a relation (MSC3874).
        """
        if room_id is not None and not self.match_room(room_id):
            return False
        if sender is not None:
            if sender in self.not_senders:
                return False
            if self.senders is not None and sender not in self.senders:
                return False
            if rel_type in self.not_rel_types or (self.rel_types is not None and rel_type not in self.rel_types):
                return False
        if not self.match_type(type):
            return False
        if self.contains_url is None:
            return True
        return self.contains_url == (content is not None and "url" in content)

    def match_type(self, event_type: str) -> bool:
        """Return True if the filter passes events of this type, leaving its other conditions aside."""
        if self.not_types is not None and self.not_types.match(event_type):
            return False
        return self.types is None or self.types.match(event_type)

    def match_room(self, room_id: RoomId) -> bool:
        """Return True if the filter passes events of this room, leaving its other conditions aside."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)
