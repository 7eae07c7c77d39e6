"""PURE: the children of an event, grouped by relation: `m.replace`, `m.thread` and `m.reference`.

Spec: client-server API, "Aggregations of child events".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.core.events.relation import REFERENCE, REPLACE, THREAD, Relation
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Placed

_ENCRYPTED = "m.room.encrypted"
_EDITS_TRIED = 3  # the latest edits may lack new content, which shows only once they are loaded


class Child(Placed, Protocol):
    """An event that relates to another: a whole event, or a row without its content."""

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
class ChildGroups:
    edits: Sequence[Child]  # candidates for the latest valid edit, latest first
    replies: Sequence[Child]  # of its thread, latest first
    references: Sequence[str]  # event ids in timeline order


def group_children(parent: TimelineEvent, children: Iterable[Child]) -> ChildGroups:
    """Group the children of an event. children: those that are visible to the reader and not ignored."""
    ordered = sorted(children, key=lambda child: (child.ordinal, -child.back), reverse=True)
    edits = [child for child in ordered if _rel_type(child) == REPLACE] if _takes_edits(parent) else []
    edits = [edit for edit in edits if _edits(parent, edit)]
    edits.sort(key=lambda edit: (edit.origin_server_ts, edit.event_id), reverse=True)
    # An event that relates to another is never the root of a thread, so there are no circles.
    replies = [child for child in ordered if _rel_type(child) == THREAD] if parent.relation is None else []
    references = [child.event_id for child in reversed(ordered) if _rel_type(child) == REFERENCE]
    return ChildGroups(edits[:_EDITS_TRIED], replies, references)


def has_new_content(edit: TimelineEvent) -> bool:
    """Return True if an edit has the new content. The content of an encrypted edit is unknown and passes."""
    return edit.type == _ENCRYPTED or isinstance(edit.content().get("m.new_content"), dict)


def _takes_edits(parent: TimelineEvent) -> bool:
    edited_itself = parent.relation is not None and parent.relation.rel_type == REPLACE
    return parent.state_key is None and parent.redacted_because is None and not edited_itself


def _edits(parent: TimelineEvent, edit: Child) -> bool:
    """Return True for a valid edit. Spec: "Validity of replacement events", except the rules about the content."""
    return edit.sender == parent.sender and edit.type == parent.type and edit.state_key is None


def _rel_type(child: Child) -> str | None:
    return None if child.relation is None else child.relation.rel_type
