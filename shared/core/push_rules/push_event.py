"""An event and its room, as push rules see them."""

from collections.abc import Mapping
from typing import Any

from shared.core.events.readers.power_levels import PowerLevels
from shared.core.identifiers import RoomId, UserId
from shared.core.property_path import ABSENT, value_at
from shared.core.push_rules.patterns import word_keys

#: The properties of events that clients see too. Rules must mean the same to servers and clients.
_SHOWN = frozenset({"content", "event_id", "origin_server_ts", "redacts", "sender", "state_key", "type"})


class PushEvent:
    """An event for evaluation by any number of rule sets.

    properties: the event's JSON object. It may be a PDU; rules see only the properties that clients see, without
        `unsigned`.
    member_count: joined members of the room after the event.
    levels: the room's power levels before the event.
    in_thread: True if the event counts in a thread, False if in the main timeline.
    """

    __slots__ = ("_body_keys", "_lower_body", "in_thread", "levels", "member_count", "properties", "room_id", "sender")

    def __init__(
        self,
        properties: Mapping[str, Any],
        room_id: RoomId,
        member_count: int,
        levels: PowerLevels,
        *,
        in_thread: bool = False,
    ) -> None:
        self.properties = properties
        self.room_id = room_id
        self.member_count = member_count
        self.levels = levels
        self.in_thread = in_thread
        self.sender: UserId = properties["sender"]
        self._lower_body: str | None = None
        self._body_keys: frozenset[str] | None = None

    def value(self, path: tuple[str, ...]) -> Any:
        """Return a property of the event, or ABSENT."""
        if path[0] in _SHOWN:
            return value_at(self.properties, path)
        return self.room_id if path == ("room_id",) else ABSENT

    def lower_body(self) -> str | None:
        """Return content.body in lower case, or None if it is not text."""
        if self._lower_body is None:
            body = value_at(self.properties, ("content", "body"))
            self._lower_body = body.lower() if isinstance(body, str) else None
        return self._lower_body

    def word_keys(self) -> frozenset[str]:
        """Return the keys of the words in content.body. The users indexed for them need individual evaluation."""
        if self._body_keys is None:
            body = self.lower_body()
            self._body_keys = word_keys(body) if body is not None else frozenset()
        return self._body_keys

    def sender_key(self) -> str:
        """Return the key of the sender in an index of sender rules."""
        return self.sender.lower()

    def named_users(self) -> frozenset[UserId]:
        """Return the users named in the event: mentioned users, and the user of a membership. They may be anybody."""
        named = value_at(self.properties, ("content", "m.mentions", "user_ids"))
        users = {UserId(user) for user in named if isinstance(user, str)} if isinstance(named, list) else set()
        if self.properties["type"] == "m.room.member" and isinstance(state_key := self.value(("state_key",)), str):
            users.add(UserId(state_key))
        return frozenset(users)
