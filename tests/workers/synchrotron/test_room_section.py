"""Cut timelines, compared with a naive model of a client."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.core.history_point import HistoryPoint
from shared.core.identifiers import UserId
from shared.rooms.history_tokens import format_point, parse_point
from shared.rooms.timeline_event import MEMBER, TimelineEvent
from tests.workers.synchrotron.events import event
from workers.synchrotron.rooms.cached_room import StateEntry, StateKey
from workers.synchrotron.sections.timeline import (
    cut_timeline,
    needed_members,
    unshown_changes,
    without_stale_state,
)

KEYS = (None, "", "a", "b")
#: For each event of a room: its state key (None for a message), True if it passes the reader's filter, True if events
#: before it were missing, True if it becomes state, and the keys that change with it, to the n-th event or to nothing.
plans = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.booleans(),
        st.sampled_from((False,) * 6 + (True,)),
        st.booleans(),
        st.dictionaries(st.sampled_from(KEYS[1:]), st.none() | st.integers(1, 14), max_size=1),
    ),
    max_size=14,
)
State = dict[StateKey, TimelineEvent]


def make(plan: Sequence[Any], *, linear: bool) -> tuple[list[TimelineEvent], list[State], list[StateEntry]]:
    """Return the events, the states before each and after the last, and every change of the state."""
    events = [event(n, "m.x", key, gap=gap and not linear) for n, (key, _, gap, _, _) in enumerate(plan, start=1)]
    states: list[State] = [{}]
    changes = []
    for each, (_, _, _, wins, others) in zip(events, plan, strict=True):
        changed: dict[StateKey, TimelineEvent | None] = {}
        if not linear:
            for key, nth in others.items():
                # A timeline event with this key, or one that soft failure had hidden.
                found = next((e for e in events[: each.ordinal] if e.state_key == key and e.ordinal == nth), None)
                changed["m.x", key] = found or (None if nth is None else event(0, "m.x", key, nid=100 + nth))
        if each.key is not None and (wins or linear):
            changed[each.key] = each
        changes += [StateEntry(each.ordinal, key, now) for key, now in changed.items()]
        states.append({key: now for key, now in (states[-1] | changed).items() if now is not None})
    return events, states, changes


def names(state: Mapping[StateKey, TimelineEvent | None]) -> dict[StateKey, str]:
    return {key: e.event_id for key, e in state.items() if e is not None}


def last(changes: Sequence[StateEntry], above: int, up_to: int) -> dict[StateKey, StateEntry]:
    return {held.key: held for held in changes if above < held.since <= up_to}


@given(plans, st.integers(0, 6), st.integers(0, 14), st.integers(0, 14), st.booleans())
def test_timeline_and_state_lose_nothing(plan: list[Any], limit: int, above: int, skipped: int, linear: bool) -> None:
    events, states, changes = make(plan, linear=linear)
    passing = {f"${n}" for n, (_, passing, _, _, _) in enumerate(plan, start=1) if passing}
    end = len(events)
    above = min(above, end)
    lowest = max(above, min(skipped, end))  # the events between were not read
    timeline = cut_timeline(
        events[lowest:], lambda e: e.event_id in passing, limit=limit, above=above, complete=lowest == above, end=end
    )
    timeline = without_stale_state(timeline, last(changes, timeline.start - 1, end))
    shown = [e.event_id for e in timeline.shown]
    assert len(shown) <= limit
    # Paging back from `start` gives exactly the rest.
    before = [e.event_id for e in events if above < e.ordinal < timeline.start and e.event_id in passing]
    assert before + shown == [e.event_id for e in events[above:] if e.event_id in passing]
    assert timeline.limited or not before
    # Where events were missing, no earlier event is shown.
    gaps = [e.ordinal for e in events[above:] if e.gap]
    assert not gaps or (timeline.limited and timeline.start >= gaps[-1])
    # The client's state is the room's: what it had, then `state`, then the timeline.
    client = names(states[above])
    client |= names({held.key: held.event for held in last(changes, above, timeline.start - 1).values()})
    untold = unshown_changes(timeline, last(changes, timeline.start - 1, end))
    client |= names(untold)
    client |= names({e.key: e for e in timeline.shown if e.key is not None})
    # Only keys that left the state differ.
    truth = names(states[end])
    gone = {held.key for held in changes if held.event is None} - truth.keys()
    assert {key: value for key, value in client.items() if key not in gone} == truth


@given(plans, st.integers(0, 6))
def test_whole_state_has_no_key_that_left_the_state(plan: list[Any], limit: int) -> None:
    """Return the state as an initial response builds it: that at the start, without keys that left it since."""
    events, states, changes = make(plan, linear=False)
    end = len(events)
    timeline = cut_timeline(events, lambda e: True, limit=limit, above=0, complete=True, end=end)
    timeline = without_stale_state(timeline, last(changes, timeline.start - 1, end))
    untold = unshown_changes(timeline, last(changes, timeline.start - 1, end))
    client = names(states[timeline.start - 1] | untold) | names({e.key: e for e in timeline.shown if e.key is not None})
    assert client == names(states[end])


def test_members_that_lazy_loading_needs() -> None:
    timeline = cut_timeline(
        [event(1, sender=UserId("@a:x")), event(2, sender=UserId("@b:x")), event(3, sender=UserId("@a:x"))],
        lambda e: True,
        limit=2,
        above=0,
        complete=True,
        end=3,
    )
    have = {(MEMBER, "@b:x"): event(9, MEMBER, "@b:x", membership="join")}
    assert needed_members(timeline, [UserId("@h:x")], UserId("@own:x"), have) == [
        (MEMBER, "@a:x"),
        (MEMBER, "@h:x"),
        (MEMBER, "@own:x"),
    ]


@given(st.integers(0, 10**17))
def test_prev_batch_tokens_keep_their_point(ordinal: int) -> None:
    assert parse_point(format_point(ordinal)) == HistoryPoint(ordinal)
