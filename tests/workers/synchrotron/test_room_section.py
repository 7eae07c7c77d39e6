"""Cutting timelines, against a naive reading of what a client must end up with."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.synchrotron.events import event
from workers.synchrotron.place_token import format_place, parse_place
from workers.synchrotron.room_section import (
    cut_timeline,
    give_way_to_held_back,
    held_back_state,
    needed_members,
)
from workers.synchrotron.timeline_event import MEMBER, TimelineEvent

#: For each event of a room: its state key (None: a message), and whether the reader's filter lets it pass.
plans = st.lists(st.tuples(st.sampled_from((None, "", "a", "b")), st.booleans()), max_size=14)


def make(plan: Sequence[tuple[str | None, bool]]) -> tuple[list[TimelineEvent], set[str]]:
    events = [event(n, "m.x", key) for n, (key, _) in enumerate(plan, start=1)]
    return events, {f"${n}" for n, (_, passing) in enumerate(plan, start=1) if passing}


def state_at(events: Sequence[TimelineEvent], below: int) -> dict[tuple[str, str], str]:
    return {e.key: e.event_id for e in events if e.key is not None and e.ordinal < below}


@given(plans, st.integers(0, 6), st.integers(0, 14), st.integers(0, 14))
def test_nothing_is_lost_and_the_state_is_right(
    plan: list[tuple[str | None, bool]], limit: int, above: int, skipped: int
) -> None:
    events, passing = make(plan)
    end = len(events)
    above = min(above, end)
    lowest = max(above, min(skipped, end))  # what lies between was not looked at
    timeline = give_way_to_held_back(
        cut_timeline(
            events[lowest:], lambda e: e.event_id in passing, limit=limit, above=above,
            complete=lowest == above, end=end,
        )
    )  # fmt: skip
    shown = [e.event_id for e in timeline.shown]
    assert len(shown) <= limit
    # Whoever pages back from `start` gets exactly the rest.
    before = [e.event_id for e in events if above < e.ordinal < timeline.start and e.event_id in passing]
    assert before + shown == [e.event_id for e in events[above:] if e.event_id in passing]
    assert timeline.limited or not before
    # The state that a client puts together is the room's: what it had, `state`, then the timeline.
    client = state_at(events, above + 1)
    client |= {e.key: e.event_id for e in events if e.key and above < e.ordinal < timeline.start}
    client |= {key: e.event_id for key, e in held_back_state(timeline).items()}
    client |= {e.key: e.event_id for e in timeline.shown if e.key is not None}
    assert client == state_at(events, end + 1)


def test_members_that_lazy_loading_needs() -> None:
    timeline = cut_timeline(
        [event(1, sender="@a:x"), event(2, sender="@b:x"), event(3, sender="@a:x")], lambda e: True,
        limit=2, above=0, complete=True, end=3,
    )  # fmt: skip
    have = {(MEMBER, "@b:x"): event(9, MEMBER, "@b:x", membership="join")}
    assert needed_members(timeline, ["@h:x"], "@own:x", have) == [
        (MEMBER, "@a:x"), (MEMBER, "@h:x"), (MEMBER, "@own:x"),
    ]  # fmt: skip


@given(st.integers(0, 10**17))
def test_places_come_back(ordinal: int) -> None:
    assert parse_place(format_place(ordinal)) == ordinal
