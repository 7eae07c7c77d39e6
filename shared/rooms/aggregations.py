"""Bundled aggregations: the children of the events in an answer, summed up under `m.relations`.

A reader gets only children that they may see and whose senders they do not ignore.
Spec: client-server API, "Aggregations of child events".
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol

import orjson

from shared.core.events.relation import REFERENCE, REPLACE, THREAD
from shared.core.identifiers import EventId, RoomId, UserId
from shared.rooms.child_groups import Child, ChildGroups, group_children, has_new_content
from shared.rooms.decoding import events_from_rows
from shared.rooms.erased_events import strip_erased
from shared.rooms.room_view import RoomView, load_branches
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Database
from shared.storage.events.relations import RelatedRow, get_related, get_thread_size
from shared.storage.events.timeline import get_events_by_nid

#: Children loaded for each event. The database counts the replies of longer threads.
MAX_CHILDREN = 500
Bundles = Mapping[int, Mapping[str, Any]]


class ChildEvents(Protocol):
    """The source of child events, for one room and reader."""

    @property
    def room_id(self) -> RoomId | None: ...  # None in answers whose events have no room id (/sync)
    @property
    def view(self) -> Viewpoint: ...
    @property
    def ignored(self) -> frozenset[str]: ...

    async def of(self, event_ids: Sequence[EventId]) -> Mapping[EventId, Sequence[Child]]:
        """Return the children of those events that have any."""

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        """Return the whole events by number, in the form that the reader may see."""

    async def thread_size(self, root: TimelineEvent, user_id: UserId, replies: Sequence[Child]) -> tuple[int, bool]:
        """Return the number of replies, and True if one is the user's. replies: those that `of` returned."""


async def bundle(
    events: Sequence[TimelineEvent], children: ChildEvents, reader: Reader, *, in_thread: bool = False
) -> Bundles:
    """Return `m.relations` of those events that have any, by number. State events have none.

    in_thread: True if the events are the latest of their threads. Their own threads are not summed up.
    """
    parents = [event for event in events if event.state_key is None]
    children_of = await children.of([parent.event_id for parent in parents])
    if not children_of:
        return {}
    groups_of: dict[int, ChildGroups] = {}
    for parent in parents:
        shown = [
            child
            for child in children_of.get(parent.event_id, ())
            if child.sender not in children.ignored and children.view.may_see(child)
        ]
        if shown:
            groups_of[parent.event_nid] = group_children(parent, shown)
    latest = [] if in_thread else [groups.replies[0] for groups in groups_of.values() if groups.replies]
    loaded = await children.load([*latest, *(edit for groups in groups_of.values() for edit in groups.edits)])
    last_replies = [loaded[reply.event_nid] for reply in latest if reply.event_nid in loaded]
    inner = await bundle(last_replies, children, reader, in_thread=True) if last_replies else {}
    sizes = {}
    for parent in parents:
        if (groups := groups_of.get(parent.event_nid)) is not None and groups.replies and not in_thread:
            sizes[parent.event_nid] = await children.thread_size(parent, reader.user_id, groups.replies)

    def show(event: TimelineEvent) -> Any:
        relations = inner.get(event.event_nid)
        return shown_event(event, reader, children.view, room_id=children.room_id, relations=relations)

    bundles: dict[int, Mapping[str, Any]] = {}
    for parent in parents:
        if (groups := groups_of.get(parent.event_nid)) is None:
            continue
        relations: dict[str, Any] = {}
        edits = (loaded[edit.event_nid] for edit in groups.edits if edit.event_nid in loaded)
        if (edit := next(filter(has_new_content, edits), None)) is not None:
            relations[REPLACE] = show(edit)
        if parent.event_nid in sizes and groups.replies[0].event_nid in loaded:
            count, participated = sizes[parent.event_nid]
            relations[THREAD] = {
                "latest_event": show(loaded[groups.replies[0].event_nid]),
                "count": count,
                "current_user_participated": participated or parent.sender == reader.user_id,
            }
        if groups.references:
            relations[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in groups.references]}
        if relations:
            bundles[parent.event_nid] = relations
    return bundles


class StoredChildEvents:
    """Child events in Postgres, for room reads."""

    def __init__(self, database: Database, room: RoomView) -> None:
        self._database = database
        self._room = room
        self.room_id = room.room_id
        self.view = room.view
        self.ignored = room.ignored

    async def of(self, event_ids: Sequence[EventId]) -> Mapping[EventId, Sequence[RelatedRow]]:
        if not event_ids:
            return {}
        related = await get_related(self._database, self._room.room_nid, event_ids, MAX_CHILDREN)
        await load_branches(self._database, self._room, [child for each in related.values() for child in each])
        return related

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        nids = [child.event_nid for child in children]
        rows = await get_events_by_nid(self._database, self._room.room_nid, nids) if nids else []
        events = await events_from_rows(self._room.version, rows)
        shown = await strip_erased(self._database, self._room, events)
        return {event.event_nid: event for event in shown}

    async def thread_size(self, root: TimelineEvent, user_id: UserId, replies: Sequence[Child]) -> tuple[int, bool]:
        since = self.view.joined_throughout_from
        if len(replies) >= MAX_CHILDREN and since is not None and root.ordinal > since:
            return await get_thread_size(self._database, self._room.room_nid, root.event_id, user_id, self.ignored)
        return len(replies), any(reply.sender == user_id for reply in replies)


async def shown_events(
    database: Database,
    room: RoomView,
    events: Sequence[TimelineEvent],
    reader: Reader,
    *,
    parents: Set[int] | None = None,
) -> list[orjson.Fragment]:
    """Return events of the room as the reader gets them, with their bundled aggregations.

    parents: the numbers of the events that have children; None: unknown.
    """
    with_children = events if parents is None else [event for event in events if event.event_nid in parents]
    bundles = await bundle(with_children, StoredChildEvents(database, room), reader)
    slices, shown = Slices(), []
    for event in events:
        await slices.rest()
        relations = bundles.get(event.event_nid)
        shown.append(shown_event(event, reader, room.view, room_id=room.room_id, relations=relations))
    return shown
