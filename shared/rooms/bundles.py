"""PURE: what relates to an event, summed up: which children count, and what of them is told.

Spec: client-server API, "Aggregations of child events"; of `m.replace`, `m.thread` and `m.reference`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.core.events.relation import REFERENCE, REPLACE, THREAD, Relation
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Placed

_ENCRYPTED = "m.room.encrypted"
_EDITS_TRIED = 3  # that turn out not to have new content


class Child(Placed, Protocol):
    """An event that relates to another: whole, or a row without its content."""

    @property
    def relation(self) -> Relation | None: ...
    @property
    def event_nid(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def sender(self) -> str: ...
    @property
    def origin_server_ts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """edits: those that may be the latest valid one, that first. replies: of its thread, latest first.

    references: ids in the room's order.
    """

    edits: Sequence[Child]
    replies: Sequence[Child]
    references: Sequence[str]


def choose(parent: TimelineEvent, children: Iterable[Child]) -> Chosen:
    """Sort out what relates to an event. children: those that the reader may and wants to see."""
    ordered = sorted(children, key=lambda child: (child.ordinal, -child.back), reverse=True)
    edits = [child for child in ordered if _rel_type(child) == REPLACE] if _takes_edits(parent) else []
    edits = [edit for edit in edits if _edits(parent, edit)]
    edits.sort(key=lambda edit: (edit.origin_server_ts, edit.event_id), reverse=True)
    # No thread begins with an event that itself relates to another: so nothing goes round in a circle.
    replies = [child for child in ordered if _rel_type(child) == THREAD] if parent.relation is None else []
    references = [child.event_id for child in reversed(ordered) if _rel_type(child) == REFERENCE]
    return Chosen(edits[:_EDITS_TRIED], replies, references)


def has_new_content(edit: TimelineEvent) -> bool:
    """Return whether an edit says what replaces the content; of an encrypted one only its readers know."""
    return edit.type == _ENCRYPTED or isinstance(edit.content().get("m.new_content"), dict)


def _takes_edits(parent: TimelineEvent) -> bool:
    edited_itself = parent.relation is not None and parent.relation.rel_type == REPLACE
    return parent.state_key is None and parent.redacted_because is None and not edited_itself


def _edits(parent: TimelineEvent, edit: Child) -> bool:
    """Spec: "Validity of replacement events", without what concerns the content."""
    return edit.sender == parent.sender and edit.type == parent.type and edit.state_key is None


def _rel_type(child: Child) -> str | None:
    return None if child.relation is None else child.relation.rel_type
