"""Bundled aggregations: what relates to the events of an answer, for its reader, under `m.relations`.

Spec: client-server API, "Aggregations of child events". Whoever reads gets only what he may see and wants to see of it.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol

import orjson

from shared.core.events.relation import REFERENCE, REPLACE, THREAD
from shared.rooms.bundles import Child, Chosen, choose, has_new_content
from shared.rooms.erased_events import strip_erased
from shared.rooms.room_view import RoomView, load_branches
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.engine.pool import Database
from shared.storage.events.relations import RelatedRow, get_related, get_thread_size
from shared.storage.events.timeline import get_events_by_nid

#: Children looked at for each event. A longer thread is counted by the database.
MAX_CHILDREN = 500
Bundles = Mapping[int, Mapping[str, Any]]


class Relatives(Protocol):
    """Where what relates to events is looked up, for one room and reader. room_id: None where answers leave it out."""

    @property
    def room_id(self) -> str | None: ...
    @property
    def view(self) -> Viewpoint: ...
    @property
    def ignored(self) -> frozenset[str]: ...

    async def of(self, event_ids: Sequence[str]) -> Mapping[str, Sequence[Child]]:
        """Return the children of those that have any."""

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        """Return the whole events, by number, as the reader may see them."""

    async def thread_size(self, root: TimelineEvent, user_id: str, replies: Sequence[Child]) -> tuple[int, bool]:
        """Return how many replies there are, and whether one is the user's. replies: those that were found."""


async def bundle(
    events: Sequence[TimelineEvent], relatives: Relatives, reader: Reader, *, in_thread: bool = False
) -> Bundles:
    """Return `m.relations` of those of the events that have any, by number; of state events never.

    in_thread: they are shown as the latest of their threads, which ends the descent.
    """
    parents = [event for event in events if event.state_key is None]
    related = await relatives.of([parent.event_id for parent in parents])
    if not related:
        return {}
    chosen: dict[int, Chosen] = {}
    for parent in parents:
        children = related.get(parent.event_id, ())
        shown = [one for one in children if one.sender not in relatives.ignored and relatives.view.may_see(one)]
        if shown:
            chosen[parent.event_nid] = choose(parent, shown)
    latest = [] if in_thread else [each.replies[0] for each in chosen.values() if each.replies]
    loaded = await relatives.load([*latest, *(edit for each in chosen.values() for edit in each.edits)])
    last_replies = [loaded[reply.event_nid] for reply in latest if reply.event_nid in loaded]
    inner = await bundle(last_replies, relatives, reader, in_thread=True) if last_replies else {}
    sizes = {}
    for parent in parents:
        if (one := chosen.get(parent.event_nid)) is not None and one.replies and not in_thread:
            sizes[parent.event_nid] = await relatives.thread_size(parent, reader.user_id, one.replies)

    def show(event: TimelineEvent) -> Any:
        relations = inner.get(event.event_nid)
        return shown_event(event, reader, relatives.view, room_id=relatives.room_id, relations=relations)

    bundles: dict[int, Mapping[str, Any]] = {}
    for parent in parents:
        if (one := chosen.get(parent.event_nid)) is None:
            continue
        told: dict[str, Any] = {}
        edits = (loaded[edit.event_nid] for edit in one.edits if edit.event_nid in loaded)
        if (edit := next(filter(has_new_content, edits), None)) is not None:
            told[REPLACE] = show(edit)
        if parent.event_nid in sizes and one.replies[0].event_nid in loaded:
            count, took_part = sizes[parent.event_nid]
            told[THREAD] = {
                "latest_event": show(loaded[one.replies[0].event_nid]),
                "count": count,
                "current_user_participated": took_part or parent.sender == reader.user_id,
            }
        if one.references:
            told[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in one.references]}
        if told:
            bundles[parent.event_nid] = told
    return bundles


class StoredRelatives:
    """What Postgres has: for the reading of rooms."""

    def __init__(self, database: Database, room: RoomView) -> None:
        self._database = database
        self._room = room
        self.room_id = room.room_id
        self.view = room.view
        self.ignored = room.ignored

    async def of(self, event_ids: Sequence[str]) -> Mapping[str, Sequence[RelatedRow]]:
        if not event_ids:
            return {}
        related = await get_related(self._database, self._room.room_nid, event_ids, MAX_CHILDREN)
        await load_branches(self._database, self._room, [child for each in related.values() for child in each])
        return related

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        nids = [child.event_nid for child in children]
        rows = await get_events_by_nid(self._database, self._room.room_nid, nids) if nids else []
        events = [self._room.event(row) for row in rows]
        shown = await strip_erased(self._database, self._room, events)
        return {event.event_nid: event for event in shown}

    async def thread_size(self, root: TimelineEvent, user_id: str, replies: Sequence[Child]) -> tuple[int, bool]:
        since = self.view.joined_throughout_from
        if len(replies) >= MAX_CHILDREN and since is not None and root.ordinal > since:
            return await get_thread_size(self._database, self._room.room_nid, root.event_id, user_id, self.ignored)
        return len(replies), any(reply.sender == user_id for reply in replies)


async def shown_events(
    database: Database, room: RoomView, events: Sequence[TimelineEvent], reader: Reader, *,
    parents: Set[int] | None = None,
) -> list[orjson.Fragment]:  # fmt: skip
    """Return events of the room as the reader gets them, with what relates to them summed up.

    parents: numbers of those that have anything to sum up; None: that has not been asked.
    """
    summed_up = events if parents is None else [event for event in events if event.event_nid in parents]
    bundles = await bundle(summed_up, StoredRelatives(database, room), reader)
    return [
        shown_event(event, reader, room.view, room_id=room.room_id, relations=bundles.get(event.event_nid))
        for event in events
    ]
