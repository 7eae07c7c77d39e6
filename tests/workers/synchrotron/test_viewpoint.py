"""Visibility, compared with a naive reading of "Room history visibility" (client-server API)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.identifiers import UserId
from shared.rooms.room_view import last_left
from shared.rooms.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent
from shared.rooms.viewpoint import Viewpoint, value_before
from tests.workers.synchrotron.events import event

ME = UserId("@me:x")
changes = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.just("member"), st.sampled_from(("join", "leave", "invite", "ban", "knock"))),
        st.tuples(st.just("visibility"), st.sampled_from(("shared", "joined", "invited", "world_readable", "?"))),
    ),
    max_size=12,
)


def make(plan: list[tuple[str, str] | None]) -> list[TimelineEvent]:
    events = []
    for ordinal, change in enumerate(plan, start=1):
        if change is None:
            events.append(event(ordinal))
        elif change[0] == "member":
            events.append(event(ordinal, MEMBER, ME, membership=change[1]))
        else:
            events.append(event(ordinal, HISTORY_VISIBILITY, "", visibility=change[1]))
    return events


def naive(events: list[TimelineEvent], index: int) -> bool:
    """Return True if the user may see the event, by the state before it and, where it counts, after it."""
    memberships, visibilities = ["leave"], ["shared"]
    for each in events:
        memberships.append(each.membership or memberships[-1])
        visibilities.append(each.visibility or visibilities[-1])
    joined_since = "join" in memberships[index:]
    here = events[index]
    own = {memberships[index]} | ({memberships[index + 1]} if here.type == MEMBER else set())
    settings = {visibilities[index]} | ({visibilities[index + 1]} if here.visibility else set())
    if "world_readable" in settings or "join" in own:
        return True
    if settings & {"shared", "?"} and joined_since:
        return True
    return "invited" in settings and "invite" in own


@settings(max_examples=500)
@given(changes)
def test_visibility_of_every_event_of_every_history(plan: list[tuple[str, str] | None]) -> None:
    events = make(plan)
    memberships = [(e.ordinal, e.membership) for e in events if e.membership]
    visibility = [(e.ordinal, e.visibility) for e in events if e.visibility]
    joined = bool(memberships) and memberships[-1][1] == "join"
    plain = Viewpoint(ME, visibility, memberships)
    fast = Viewpoint(ME, visibility, memberships, joined_throughout_from=memberships[-1][0] if joined else None)
    now = "leave"
    for index, each in enumerate(events):
        now = each.membership or now
        assert plain.may_see(each) == naive(events, index)
        assert fast.may_see(each) == naive(events, index)
        assert plain.membership_at(each.ordinal) == fast.membership_at(each.ordinal) == now


def test_former_member_sees_the_event_that_ended_it_and_none_after() -> None:
    events = make([("member", "invite"), None, ("member", "leave"), None])
    view = Viewpoint(ME, (), [(1, "invite"), (3, "leave")], end=3)
    assert [view.may_see(each) for each in events] == [False, False, True, False]
    assert not view.state_is_open
    assert Viewpoint(ME, (), [(1, "join"), (3, "ban")], end=3).state_is_open


def test_history_is_looked_up_by_ordinal() -> None:
    history = [(2, "invite"), (5, "join")]
    assert [value_before(history, n) for n in (1, 2, 3, 5, 6)] == [None, None, "invite", "invite", "join"]
    assert last_left([(1, "join"), (4, "leave"), (6, "ban"), (7, "invite")]) == 4
    assert last_left([(1, "invite"), (4, "leave")]) is None
