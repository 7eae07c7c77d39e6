"""Room summaries, for users who look for rooms: room directory, previews, spaces.

State content may be malformed, since anybody can send it. Values of the wrong type are left out.
Spec: client-server API, "Published room directory", GET /room_summary, "Discovering rooms within spaces".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import get_room_version

SPACE = "m.space"
CHILD = "m.space.child"
#: The state, with the key "", from which a summary is made.
SUMMARY_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
)


#: Those of them that are their sender's words. The others rule what the room is and who may enter.
PERSONAL_TYPES = frozenset({"m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias"})


class Erasure(NamedTuple):
    """The erasure of an event's sender. ordinal: of the event. erased_ms: the time."""

    ordinal: int
    erased_ms: int


class Withheld(NamedTuple):
    """The content of an event whose sender is erased."""

    content: Mapping[str, Any]
    erasure: Erasure


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomFacts:
    """The facts about a room from which a summary is made.

    joined: the number of members.
    resident: True if a local user is a member, so that this server knows the state.
    contents: type -> content of the state event with the key "", redacted if the event is or its sender is erased.
    withheld: the whole contents of erased senders, for readers who were there (`shared/rooms/room_facts.py`).
    """

    room_nid: int
    room_id: RoomId
    room_version: str
    joined: int
    resident: bool
    contents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    withheld: Mapping[str, Withheld] = field(default_factory=dict)

    def text(self, event_type: str, key: str) -> str | None:
        """Return a string in the state, or None if there is none."""
        value = self.contents.get(event_type, {}).get(key)
        return value if isinstance(value, str) else None

    @property
    def room_type(self) -> str | None:
        return self.text("m.room.create", "type")

    @property
    def join_rule(self) -> str:
        return self.text("m.room.join_rules", "join_rule") or "invite"

    @property
    def world_readable(self) -> bool:
        return self.text("m.room.history_visibility", "history_visibility") == "world_readable"

    @property
    def allowed_rooms(self) -> tuple[RoomId, ...]:
        """The rooms whose members may join, if the join rule allows that. Spec: "Restricted rooms"."""
        if self.join_rule not in ("restricted", "knock_restricted"):
            return ()
        allow = self.contents.get("m.room.join_rules", {}).get("allow")
        return tuple(
            entry["room_id"]
            for entry in (allow if isinstance(allow, list) else ())
            if isinstance(entry, dict)
            and entry.get("type") == "m.room_membership"
            and isinstance(entry.get("room_id"), str)
        )

    @property
    def is_open(self) -> bool:
        """True if anybody may join, knock or peek, given the room's version."""
        version = get_room_version(self.room_version)
        return (
            self.world_readable
            or self.join_rule == "public"
            or (self.join_rule == "knock" and version.knocking)
            or (self.join_rule == "knock_restricted" and version.knock_restricted)
        )


def may_find(facts: RoomFacts, membership: str | None, *, in_allowed_room: bool) -> bool:
    """Return True if the room may be shown to a user. Spec: GET /rooms/{roomId}/hierarchy, `rooms`.

    membership: the user's, or None.
    in_allowed_room: True if the user is joined to one of `allowed_rooms`.
    """
    if membership in ("join", "invite") or facts.world_readable:
        return True
    if membership == "ban":
        return False  # banned users may neither join nor knock
    restricted = get_room_version(facts.room_version).restricted and facts.join_rule == "restricted"
    return facts.is_open or (restricted and in_allowed_room)


def directory_entry(facts: RoomFacts) -> dict[str, Any]:
    """Return the room as a PublishedRoomsChunk."""
    texts = {
        "name": facts.text("m.room.name", "name"),
        "topic": facts.text("m.room.topic", "topic"),
        "avatar_url": facts.text("m.room.avatar", "url"),
        "canonical_alias": facts.text("m.room.canonical_alias", "alias"),
        "room_type": facts.room_type,
    }
    return {
        "room_id": facts.room_id,
        "num_joined_members": facts.joined,
        "world_readable": facts.world_readable,
        "guest_can_join": facts.text("m.room.guest_access", "guest_access") == "can_join",
        "join_rule": facts.join_rule,
        **{key: text for key, text in texts.items() if text},
    }


def room_summary(facts: RoomFacts) -> dict[str, Any]:
    """Return the room as a RoomSummary."""
    summary = {**directory_entry(facts), "room_version": facts.room_version}
    if facts.allowed_rooms:
        summary["allowed_room_ids"] = list(facts.allowed_rooms)
    if "m.room.encryption" in facts.contents and (algorithm := facts.text("m.room.encryption", "algorithm")):
        summary["encryption"] = algorithm
    return summary


@dataclass(frozen=True, slots=True)
class SpaceChild:
    """An m.space.child event. room_id: its state key."""

    room_id: RoomId
    sender: UserId
    origin_server_ts: int
    content: Mapping[str, Any]

    @property
    def is_valid(self) -> bool:
        """True if it has `via`. Without it, the room is no child. Spec: "m.space.child relationships"."""
        via = self.content.get("via")
        return isinstance(via, list) and any(isinstance(server, str) and server for server in via)

    @property
    def is_suggested(self) -> bool:
        return self.content.get("suggested") is True

    def stripped(self) -> dict[str, Any]:
        return {
            "type": CHILD,
            "state_key": self.room_id,
            "content": self.content,
            "sender": self.sender,
            "origin_server_ts": self.origin_server_ts,
        }


_MAX_ORDER_CHARS = 50


def child_order(child: SpaceChild) -> tuple[bool, str, int, str]:
    """Return the sort key of a space's child. An empty order is none.

    Spec: client-server API, "Ordering of children within a space".
    """
    order = child.content.get("order")
    if isinstance(order, str) and 0 < len(order) <= _MAX_ORDER_CHARS and all(" " <= each <= "~" for each in order):
        return (False, order, child.origin_server_ts, child.room_id)
    return (True, "", child.origin_server_ts, child.room_id)
