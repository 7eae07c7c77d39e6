"""PURE: what a room's section of /sync holds, given the events and the state that it is made of.

Spec: client-server API, "Syncing"; GET /sync, `timeline`, `state`, `state_after`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workers.synchrotron.cached_room import StateKey
from workers.synchrotron.timeline_event import MEMBER, TimelineEvent


@dataclass(frozen=True, slots=True)
class Timeline:
    """shown: the events of the answer, ascending. limited: events between the token and `start` are left out.

    start: the ordinal of the first place that the timeline accounts for; `prev_batch` is the place before it, and
    `state` is the state there. held_back: state events from `start` on that the reader isn't shown.
    """

    shown: Sequence[TimelineEvent]
    limited: bool
    start: int
    held_back: Sequence[TimelineEvent]


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
    """
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
    chosen = {event.ordinal for event in shown}
    held_back = [
        event for event in events if event.ordinal >= start and event.key is not None and event.ordinal not in chosen
    ]
    return Timeline(shown, limited, start, held_back)


def give_way_to_held_back(timeline: Timeline) -> Timeline:
    """Shorten the timeline where it would leave the client with a value that a held-back event has replaced since.

    `state` comes before the timeline, so it cannot put that right. The client pages back to what is left out here.
    It happens to whoever was away while only members saw the history, and with filters by sender.
    """
    last_shown = {event.key: event.ordinal for event in timeline.shown if event.key is not None}
    stale = [
        last_shown[event.key]
        for event in timeline.held_back
        if event.key in last_shown and event.ordinal > last_shown[event.key]
    ]
    if not stale:
        return timeline
    start = max(stale) + 1
    return Timeline(
        [event for event in timeline.shown if event.ordinal >= start],
        True,
        start,
        [event for event in timeline.held_back if event.ordinal >= start],
    )


def held_back_state(timeline: Timeline) -> dict[StateKey, TimelineEvent]:
    """Return the state that the timeline should have brought but doesn't, by filter or visibility.

    It goes into `state`, so that the client's state is right; a key that the timeline sets too is left to it, for
    `state` comes before the timeline.
    """
    shown = {event.key for event in timeline.shown if event.key is not None}
    return {event.key: event for event in timeline.held_back if event.key is not None and event.key not in shown}


def needed_members(
    timeline: Timeline, heroes: Iterable[str], own: str | None, state: Mapping[StateKey, TimelineEvent]
) -> list[StateKey]:
    """Return the member events that lazy loading still has to add.

    The senders shown, the heroes named, and the reader himself with a full state (`own`); less those whom `state`
    has. Spec: client-server API, "Lazy-loading room members".
    """
    wanted = dict.fromkeys(event.sender for event in timeline.shown)
    wanted.update(dict.fromkeys(heroes))
    if own is not None:
        wanted[own] = None
    return [(MEMBER, user_id) for user_id in wanted if (MEMBER, user_id) not in state]
