"""PURE: what a room's section of /sync holds, given the events and the state that it is made of.

Spec: client-server API, "Syncing"; GET /sync, `timeline`, `state`, `state_after`.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.rooms.timeline_event import MEMBER, TimelineEvent
from workers.synchrotron.rooms.cached_room import Held, StateKey


@dataclass(frozen=True, slots=True)
class Timeline:
    """shown: the events of the answer, ascending. limited: events between the token and `start` are left out.

    start: the ordinal of the first place that the timeline accounts for; `prev_batch` is the place before it, and
    `state` is the state there, with what the timeline does not tell of the changes since.
    """

    shown: Sequence[TimelineEvent]
    limited: bool
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
    """Choose the latest `limit` events that pass.

    events: the room's events up to `end` (inclusive), ascending; complete: all of them above the ordinal `above`,
    which is where the reader's token stands (0: he has none); else older ones exist that were not looked at.
    Where events before one were missing when it came, the timeline begins with that one.
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
        # Nobody looked further down: the reader pages on from the lowest place that was looked at.
        limited = True
        start = events[0].ordinal if events else end + 1
    return Timeline(shown, limited, start)


def last_gap(events: Sequence[TimelineEvent]) -> int | None:
    """Return the index of the last event before which something was missing when it came."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].gap:
            return index
    return None


def give_way_to_changes(timeline: Timeline, changes: Mapping[StateKey, Held]) -> Timeline:
    """Shorten the timeline where it would leave the client with a value that is not the state of its key.

    changes: the last one of each key from `start` on or earlier. `state` comes before the timeline, so it cannot put
    that right. The client pages back to what is left out here. It happens where a later change isn't shown: to whoever
    was away while only members saw the history, with filters by sender, and where state resolution decided otherwise.
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


def untold_changes(timeline: Timeline, changes: Mapping[StateKey, Held]) -> dict[StateKey, TimelineEvent | None]:
    """Return the changes since `start` that the timeline does not tell: hidden, or by state resolution.

    They go into `state`, so that the client's state is right at the end; a key that the timeline sets too is left to
    it, for `state` comes before the timeline. None: the key left the state, which no client can be told; nor may it
    be given an older value then.
    """
    if not changes:
        return {}
    shown = {event.key for event in timeline.shown if event.key is not None}
    return {key: held.event for key, held in changes.items() if held.since >= timeline.start and key not in shown}


def needed_members(
    timeline: Timeline, heroes: Iterable[str], own: str | None, have: Container[StateKey]
) -> list[StateKey]:
    """Return the member events that lazy loading still has to add.

    The senders shown, the heroes named, and the reader himself with a full state (`own`); less those who are among
    `have`. Spec: client-server API, "Lazy-loading room members".
    """
    wanted = dict.fromkeys(event.sender for event in timeline.shown)
    wanted.update(dict.fromkeys(heroes))
    if own is not None:
        wanted[own] = None
    return [(MEMBER, user_id) for user_id in wanted if (MEMBER, user_id) not in have]
