"""Events that clients may not send although the room's rules allow them.

These are messages without text, power levels that are strings, repeated reactions, and threads in threads. Only events
of our own clients are checked, not those of other servers. Spec: client-server API, "Instant
Messaging", "Event annotations and reactions", "Threading"; server-server API, "Definitions" (power levels).
"""

from collections.abc import Collection, Mapping
from typing import Any

from shared.core.errors import MatrixError, bad_json, invalid_param
from shared.core.events.readers.create import creators_of
from shared.core.events.readers.power_levels import DEFAULT_LEVELS
from shared.core.events.relation import THREAD, relation_of, relation_of_json
from shared.core.identifiers import EventId, UserId, is_room_alias
from shared.storage.engine.pool import Database
from shared.storage.events.client_transactions import get_transaction
from shared.storage.events.relations import get_annotation_keys
from shared.storage.events.stored_events import get_event_by_id
from workers.event_persister.room.live_room import LiveRoom

_ANNOTATION = "m.annotation"
_LEVEL_MAPS = ("users", "events", "notifications")


def check_content(event_type: str, content: Mapping[str, Any]) -> None:
    """Raise M_BAD_JSON for a message without `msgtype` or `body`, and for power levels that are strings."""
    if event_type == "m.room.message":
        if not all(isinstance(content.get(name), str) for name in ("msgtype", "body")):
            raise bad_json("A message needs a msgtype and a textual body")
    elif event_type == "m.room.power_levels":
        maps = [levels for name in _LEVEL_MAPS if isinstance(levels := content.get(name), dict)]
        values = [*(content.get(name) for name in DEFAULT_LEVELS), *(level for each in maps for level in each.values())]
        if any(isinstance(value, str) for value in values):
            raise bad_json("Power levels must be integers")


def check_state(room: LiveRoom, sender: UserId, event_type: str, content: Mapping[str, Any]) -> None:
    """Raise M_INVALID_PARAM for state that no user may ever set, whatever their power level.

    Only members learn who the creators are.
    """
    if event_type == "m.room.create":
        raise invalid_param("A room has one m.room.create event, which is its first")
    if (
        event_type == "m.room.power_levels"
        and room.version.creators_outrank_all
        and room.state.membership(sender) == "join"
    ):
        users = content.get("users")
        for creator in creators_of(room.version, room.create):
            if isinstance(users, dict) and creator in users:
                raise invalid_param(f"creator {creator} must not appear in users of m.room.power_levels")


def check_aliases(new: Collection[str], pointing_here: Collection[str]) -> None:
    """Check the aliases that an m.room.canonical_alias adds. pointing_here: those of them that point to its room.

    Raises M_INVALID_PARAM for an ill-formed alias, M_BAD_ALIAS for one that does not point to the room.
    """
    if not all(is_room_alias(alias) for alias in new):
        raise invalid_param("A room alias is ill-formed")
    if any(alias not in pointing_here for alias in new):
        raise MatrixError("M_BAD_ALIAS", "A room alias does not point to this room", 400)


def aliases_in(content: Mapping[str, Any], *, lenient: bool = False) -> set[str]:
    """Return the aliases of an m.room.canonical_alias. lenient: wrong types read as absent, else M_BAD_JSON."""
    alias, others = content.get("alias"), content.get("alt_aliases")
    listed = others if isinstance(others, list) else []
    found = {name for name in (alias, *listed) if isinstance(name, str) and name}
    if not lenient:
        if alias is not None and not isinstance(alias, str):
            raise bad_json("alias must be a string")
        if others is not None and not (isinstance(others, list) and all(isinstance(name, str) for name in others)):
            raise bad_json("alt_aliases must be a list of strings")
    return found


class RelationRefusals:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(
        self, room: LiveRoom, sender: UserId, event_type: str, content: Mapping[str, Any], key: bytes | None
    ) -> EventId | None:
        """Return None if the event may be sent, or the event id if the same transaction has sent it long ago.

        key: of the transaction. Usual messages relate to no event, and cost nothing here.
        Raises M_DUPLICATE_ANNOTATION, and M_UNKNOWN for a thread whose root relates to another event.
        """
        relation = relation_of(content)
        if relation is None or room.state.membership(sender) != "join":
            return None  # the room's rules refuse users who are not joined, and tell them nothing
        if relation.rel_type == THREAD:
            root = await get_event_by_id(self._database, room.room_nid, relation.event_id)
            if root is not None and root.redacted_by is None and relation_of_json(root.json) is not None:
                raise MatrixError("M_UNKNOWN", "A thread cannot begin at an event that relates to another one", 400)
        elif relation.rel_type == _ANNOTATION:
            mark = content["m.relates_to"].get("key")
            if not isinstance(mark, str):
                return None
            stored = await get_annotation_keys(self._database, room.room_nid, relation.event_id, sender, event_type)
            if mark in stored or _is_under_way(room, sender, event_type, relation.event_id, mark):
                answer = None if key is None else await get_transaction(self._database, room.room_nid, key)
                if answer is None:
                    raise MatrixError("M_DUPLICATE_ANNOTATION", "You have sent this reaction already", 400)
                return answer
        return None


def _is_under_way(room: LiveRoom, sender: UserId, event_type: str, event_id: EventId, mark: str) -> bool:
    """Return True if the same annotation is being stored at this moment."""
    for write in room.writes:
        for built in write.built:
            event = built.event
            if event.sender == sender and event.type == event_type and relation_of(event.content) is not None:
                stated = event.content["m.relates_to"]
                if (stated["rel_type"], stated["event_id"], stated.get("key")) == (_ANNOTATION, event_id, mark):
                    return True
    return False
