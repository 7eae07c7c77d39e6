"""An event and its room, as push rules see them."""

from collections.abc import Mapping
from typing import Any

from shared.core.events.readers.power_levels import PowerLevels
from shared.core.globs import SearchedText
from shared.core.identifiers import RoomId, UserId
from shared.core.property_path import ABSENT, value_at
from shared.core.push_rules.budget import STEPS_PER_USER
from shared.core.push_rules.patterns import word_keys

#: The properties of events that clients see too. Rules must mean the same to servers and clients.
_SHOWN = frozenset({"content", "event_id", "origin_server_ts", "redacts", "sender", "state_key", "type"})
_BODY = ("content", "body")
#: Shorter texts and lists are converted, or searched, again for each rule that looks at them.
_SHORT_TEXT = 256
_SHORT_LIST = 8


class PushEvent:
    """An event for evaluation by any number of rule sets.

    What rules look for in it is prepared once: an event of 64 KB costs no more for a thousand rules than for one.

    properties: the event's JSON object. It may be a PDU; rules see only the properties that clients see, without
        `unsigned`.
    member_count: joined members of the room after the event.
    levels: the room's power levels before the event.
    in_thread: True if the event counts in a thread, False if in the main timeline.
    lower_type: the event's type in lower case.
    allowed_steps: the work that each user's own rules may cause with this event (`budget.py`).
    steps_left: what is left of it for the user, or group, that is being evaluated. Below 0 their own rules stop.
    exceeded_by: users whose own rules would have taken more.
    """

    __slots__ = (
        "_body",
        "_body_keys",
        "_entries",
        "_lower_texts",
        "allowed_steps",
        "exceeded_by",
        "in_thread",
        "levels",
        "lower_type",
        "member_count",
        "properties",
        "room_id",
        "sender",
        "steps_left",
    )

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
        self.lower_type: str = properties["type"].lower()
        self.allowed_steps = self.steps_left = STEPS_PER_USER
        self.exceeded_by: list[UserId] = []
        self._body: SearchedText | None = None
        self._body_keys: frozenset[str] | None = None
        self._lower_texts: dict[tuple[str, ...], str] | None = None
        self._entries: dict[tuple[str, ...], frozenset[Any]] | None = None

    def spend(self, steps: int) -> bool:
        """Take steps from those that are left. Return False if that is more than there are."""
        self.steps_left -= steps
        return self.steps_left >= 0

    def value(self, path: tuple[str, ...]) -> Any:
        """Return a property of the event, or ABSENT."""
        if path[0] in _SHOWN:
            return value_at(self.properties, path)
        return self.room_id if path == ("room_id",) else ABSENT

    def lower_text(self, path: tuple[str, ...]) -> str | None:
        """Return a property in lower case, or None if it is not text."""
        found = self.value(path)
        if not isinstance(found, str):
            return None
        if len(found) < _SHORT_TEXT:
            return found.lower()
        if self._lower_texts is None:
            self._lower_texts = {}
        text = self._lower_texts.get(path)
        if text is None:
            text = self._lower_texts[path] = found.lower()
        return text

    def has_entry(self, path: tuple[str, ...], value: Any) -> bool:
        """Return True if a property is a list with this value: text, an integer, a boolean or null."""
        found = self.value(path)
        if not isinstance(found, list):
            return False
        if len(found) <= _SHORT_LIST:
            if isinstance(value, str):
                return value in found
            return any(type(entry) is type(value) and entry == value for entry in found)
        if self._entries is None:
            self._entries = {}
        entries = self._entries.get(path)
        if entries is None:
            entries = self._entries[path] = frozenset(
                _entry_key(entry) for entry in found if entry is None or isinstance(entry, str | int)
            )
        return _entry_key(value) in entries

    def body(self) -> SearchedText | None:
        """Return content.body in lower case, or None if it is not text."""
        if self._body is None:
            body = value_at(self.properties, _BODY)
            self._body = SearchedText(body.lower()) if isinstance(body, str) else None
        return self._body

    def word_keys(self) -> frozenset[str]:
        """Return the keys of the words in content.body. The users indexed for them need individual evaluation."""
        if self._body_keys is None:
            body = self.body()
            self._body_keys = word_keys(body.text) if body is not None else frozenset()
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


def _entry_key(value: Any) -> Any:
    """Return a value for comparison in a set, in which 1 and True are one."""
    return value if isinstance(value, str) else (type(value), value)
