"""How one user is present, from what his devices do. Spec: client-server API, "Presence"."""

from hypothesis import given
from hypothesis import strategies as st

from shared.core.presence import (
    ACTIVE_FOR_MS,
    IDLE_AFTER_MS,
    LAPSES_AFTER_MS,
    OFFLINE,
    ONLINE,
    STATES,
    UNAVAILABLE,
    UNSAID,
    Person,
)

_T = 10_000_000


def _state(person: Person, now_ms: int = _T) -> str:
    return person.shown(now_ms).state


def test_syncing_makes_online_unless_told_otherwise() -> None:
    for told, state in ((UNSAID, ONLINE), (ONLINE, ONLINE), (UNAVAILABLE, UNAVAILABLE), (OFFLINE, OFFLINE)):
        person = Person()
        assert _state(person) == OFFLINE
        person.synced("A", told, _T, _T if told in (UNSAID, ONLINE) else 0)
        assert _state(person) == state


def test_the_best_device_wins_and_each_lapses() -> None:
    person = Person()
    person.synced("PHONE", UNAVAILABLE, _T, 0)
    person.synced("DESK", UNSAID, _T - 20_000, _T - 20_000)
    assert _state(person) == ONLINE
    assert person.next_change_ms(_T) == _T - 20_000 + LAPSES_AFTER_MS
    later = _T - 20_000 + LAPSES_AFTER_MS
    assert _state(person, later) == UNAVAILABLE
    person.forget_lapsed(later)
    assert person.next_change_ms(later) == _T + LAPSES_AFTER_MS
    assert _state(person, _T + LAPSES_AFTER_MS) == OFFLINE
    assert person.next_change_ms(_T + LAPSES_AFTER_MS) is None


def test_idle_after_five_minutes_and_back_with_any_activity() -> None:
    person = Person()
    person.synced("A", UNSAID, _T, _T)
    assert person.shown(_T + ACTIVE_FOR_MS - 1).currently_active is False  # has lapsed by then
    for minute in range(1, 5):
        now = _T + minute * 60_000
        person.synced("A", UNSAID, now, _T)
        assert person.shown(now)[:2] == (ONLINE, False)
    end = _T + IDLE_AFTER_MS
    person.synced("A", UNSAID, end, _T)
    assert _state(person, end - 1) == ONLINE
    assert _state(person, end) == UNAVAILABLE
    assert person.acted("A", end + 5)
    assert person.shown(end + 5)[:2] == (ONLINE, True)
    # Who told that he is idle is not any more when he does something.
    person.synced("A", UNAVAILABLE, end + 10, _T)
    assert _state(person, end + 10) == UNAVAILABLE
    person.synced("A", UNAVAILABLE, end + 20, end + 15)
    assert _state(person, end + 20) == ONLINE


def test_a_put_holds_until_the_device_says_something_else() -> None:
    for state in (UNAVAILABLE, OFFLINE):
        person = Person()
        person.put("A", state, _T)
        person.synced("A", UNSAID, _T + 5, _T - 9)  # goes on syncing as before
        assert _state(person, _T + 10) == state
        person.synced("A", ONLINE, _T + 20, _T + 20)
        assert _state(person, _T + 20) == ONLINE
    hidden = Person()
    hidden.put("A", OFFLINE, _T)
    assert not hidden.acted("A", _T + 1)
    hidden.synced("A", UNSAID, _T + 5, _T + 5)
    assert _state(hidden, _T + 6) == OFFLINE
    shown = Person()
    shown.put("A", ONLINE, _T)
    shown.synced("A", OFFLINE, _T + 5, 0)  # a sync that does not count
    assert _state(shown, _T + 5) == ONLINE
    shown.synced("A", UNSAID, _T + 6, _T + 6)
    shown.synced("A", OFFLINE, _T + 7, 0)  # from now on he hides
    assert _state(shown, _T + 7) == OFFLINE
    back = Person()
    back.synced("A", UNAVAILABLE, _T, 0)
    back.put("A", ONLINE, _T + 1)
    back.synced("A", UNAVAILABLE, _T + 2, 0)  # nothing new
    assert _state(back, _T + 2) == ONLINE


def test_a_change_of_the_time_alone_is_no_news() -> None:
    person = Person(status_msg="here")
    person.synced("A", UNSAID, _T, _T)
    before = person.shown(_T)
    person.acted("A", _T + 10_000)
    after = person.shown(_T + 10_000)
    assert after != before and after.same_but_for_time(before)
    person.status_msg = "there"
    assert not person.shown(_T + 10_000).same_but_for_time(before)
    assert not before.same_but_for_time(None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ABC"), st.sampled_from((UNSAID, *STATES)), st.booleans(), st.integers(0, 400_000)
        ),
        max_size=12,
    )
)  # fmt: skip
def test_nothing_changes_before_it_is_said_to(steps: list[tuple[str, str, bool, int]]) -> None:
    """What is shown stays until the next step or `next_change_ms`, whichever is first."""
    person, now = Person(), _T
    for device, told, by_put, pause in steps:
        if by_put and told:
            person.put(device, told, now)
        else:
            person.synced(device, told, now, now if told in (UNSAID, ONLINE) else 0)
        before, due = person.shown(now), person.next_change_ms(now)
        assert due is None or due > now
        last = now + pause if due is None else min(now + pause, due - 1)
        assert person.shown(last).same_but_for_time(before)
        now += pause
        person.forget_lapsed(now)


def test_the_devices_of_one_user_are_bounded() -> None:
    person = Person()
    for number in range(100):
        person.synced(f"D{number}", UNSAID, _T + number, _T + number)
    person.forget_lapsed(_T + 100)
    assert _state(person, _T + 100 + 30_000) == ONLINE
    assert len(person._devices) <= 20
