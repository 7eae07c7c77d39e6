"""PURE: the timeline of a room in a response, and the state that belongs with it.

Spec: client-server API, "Syncing"; GET /sync, `timeline`, `state`, `state_after`.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from workers.synchrotron.rooms.cached_room import StateEntry, StateKey


@dataclass(frozen=True, slots=True)
class Timeline:
    """The events of a room in a response."""

    #: Ascending.
    shown: Sequence[TimelineEvent]
    #: True if events between the client's token and `start` are left out.
    limited: bool
    #: The first ordinal that the timeline accounts for. `prev_batch` is the point before it. `state` is the state
    #: there, with the later changes that the timeline does not show.
    start: int


def cut_timeline(
    events: Sequence[TimelineEvent],
    passes: Callable[[TimelineEvent], bool],
    *,
    limit: int,
    above: int,
    complete: bool,
    end: int,
) -> Timeline:
    """Return the latest `limit` events that pass.

    events: the room's events up to `end` (inclusive), ascending.
    above: the ordinal of the client's token, 0 without one.
    complete: `events` are all events above `above`; otherwise there are older ones.
    Where events before one were missing when it arrived, the timeline begins with that event.
    """
    gap = last_gap(events)
    if gap is not None:
        events, complete = events[gap:], False
    passing = [event for event in events if passes(event)]
    shown = passing[-limit:] if limit else []
    if len(passing) > len(shown):
        limited = True
        start = shown[0].ordinal if shown else end + 1
    elif complete:
        limited = False
        start = above + 1
    else:
        # Older events were not read: the client pages on from the lowest ordinal that was.
        limited = True
        start = events[0].ordinal if events else end + 1
    return Timeline(shown, limited, start)


def last_gap(events: Sequence[TimelineEvent]) -> int | None:
    """Return the index of the last event that had missing events before it when it arrived."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].gap:
            return index
    return None


def without_stale_state(timeline: Timeline, changes: Mapping[StateKey, StateEntry]) -> Timeline:
    """Shorten a timeline that would leave the client with an outdated value of a state key.

    That happens where a later change of the key is not shown: to a user who was not joined while only members saw the
    history, with filters by sender, and after state resolution. `state` comes before the timeline, so it cannot
    correct the value. The client pages back to the events left out here.

    changes: the last change of each key from `start` on, or earlier.
    """
    last_shown = {event.key: event for event in timeline.shown if event.key is not None}
    stale = [
        event.ordinal
        for key, event in last_shown.items()
        if key not in changes or (now := changes[key].event) is None or now.event_nid != event.event_nid
    ]
    if not stale:
        return timeline
    start = max(stale) + 1
    return Timeline([event for event in timeline.shown if event.ordinal >= start], True, start)


def unshown_changes(timeline: Timeline, changes: Mapping[StateKey, StateEntry]) -> dict[StateKey, TimelineEvent | None]:
    """Return the changes from `start` on that the timeline does not show: hidden ones and those by state resolution.

    They go into `state`, so that the client's state is right at the end of the timeline. Keys that the timeline sets
    are left out, since it is applied after `state`. None: the key left the state. The protocol cannot express that,
    and the client must not get an older value either.
    """
    if not changes:
        return {}
    shown = {event.key for event in timeline.shown if event.key is not None}
    return {key: held.event for key, held in changes.items() if held.since >= timeline.start and key not in shown}


def needed_members(
    timeline: Timeline, heroes: Iterable[UserId], own: UserId | None, present: Container[StateKey]
) -> list[StateKey]:
    """Return the member events that lazy loading has to add: of senders, heroes, and the user with a full state.

    own: the user, with a full state. present: keys that are in the response already.
    Spec: client-server API, "Lazy-loading room members".
    """
    wanted = dict.fromkeys(event.sender for event in timeline.shown)
    wanted.update(dict.fromkeys(heroes))
    if own is not None:
        wanted[own] = None
    return [(MEMBER, user_id) for user_id in wanted if (MEMBER, user_id) not in present]
