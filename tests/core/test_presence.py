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
    UNSET,
    UserPresence,
)

_T = 10_000_000


def _state(person: UserPresence, now_ms: int = _T) -> str:
    return person.visible(now_ms).state


def test_syncing_makes_online_unless_told_otherwise() -> None:
    for told, state in ((UNSET, ONLINE), (ONLINE, ONLINE), (UNAVAILABLE, UNAVAILABLE), (OFFLINE, OFFLINE)):
        person = UserPresence()
        assert _state(person) == OFFLINE
        person.note_sync("A", told, _T, _T if told in (UNSET, ONLINE) else 0)
        assert _state(person) == state


def test_the_best_device_wins_and_each_lapses() -> None:
    person = UserPresence()
    person.note_sync("PHONE", UNAVAILABLE, _T, 0)
    person.note_sync("DESK", UNSET, _T - 20_000, _T - 20_000)
    assert _state(person) == ONLINE
    assert person.next_change_ms(_T) == _T - 20_000 + LAPSES_AFTER_MS
    later = _T - 20_000 + LAPSES_AFTER_MS
    assert _state(person, later) == UNAVAILABLE
    person.forget_lapsed(later)
    assert person.next_change_ms(later) == _T + LAPSES_AFTER_MS
    assert _state(person, _T + LAPSES_AFTER_MS) == OFFLINE
    assert person.next_change_ms(_T + LAPSES_AFTER_MS) is None


def test_idle_after_five_minutes_and_back_with_any_activity() -> None:
    person = UserPresence()
    person.note_sync("A", UNSET, _T, _T)
    assert person.visible(_T + ACTIVE_FOR_MS - 1).currently_active is False  # has lapsed by then
    for minute in range(1, 5):
        now = _T + minute * 60_000
        person.note_sync("A", UNSET, now, _T)
        assert person.visible(now)[:2] == (ONLINE, False)
    end = _T + IDLE_AFTER_MS
    person.note_sync("A", UNSET, end, _T)
    assert _state(person, end - 1) == ONLINE
    assert _state(person, end) == UNAVAILABLE
    assert person.note_activity("A", end + 5)
    assert person.visible(end + 5)[:2] == (ONLINE, True)
    # Who told that he is idle is not any more when he does something.
    person.note_sync("A", UNAVAILABLE, end + 10, _T)
    assert _state(person, end + 10) == UNAVAILABLE
    person.note_sync("A", UNAVAILABLE, end + 20, end + 15)
    assert _state(person, end + 20) == ONLINE


def test_a_put_holds_until_the_device_says_something_else() -> None:
    for state in (UNAVAILABLE, OFFLINE):
        person = UserPresence()
        person.note_put("A", state, _T)
        person.note_sync("A", UNSET, _T + 5, _T - 9)  # goes on syncing as before
        assert _state(person, _T + 10) == state
        person.note_sync("A", ONLINE, _T + 20, _T + 20)
        assert _state(person, _T + 20) == ONLINE
    hidden = UserPresence()
    hidden.note_put("A", OFFLINE, _T)
    assert not hidden.note_activity("A", _T + 1)
    hidden.note_sync("A", UNSET, _T + 5, _T + 5)
    assert _state(hidden, _T + 6) == OFFLINE
    shown = UserPresence()
    shown.note_put("A", ONLINE, _T)
    shown.note_sync("A", OFFLINE, _T + 5, 0)  # a sync that does not count
    assert _state(shown, _T + 5) == ONLINE
    shown.note_sync("A", UNSET, _T + 6, _T + 6)
    shown.note_sync("A", OFFLINE, _T + 7, 0)  # from now on he hides
    assert _state(shown, _T + 7) == OFFLINE
    back = UserPresence()
    back.note_sync("A", UNAVAILABLE, _T, 0)
    back.note_put("A", ONLINE, _T + 1)
    back.note_sync("A", UNAVAILABLE, _T + 2, 0)  # nothing new
    assert _state(back, _T + 2) == ONLINE


def test_a_change_of_the_time_alone_is_no_news() -> None:
    person = UserPresence(status_msg="here")
    person.note_sync("A", UNSET, _T, _T)
    before = person.visible(_T)
    person.note_activity("A", _T + 10_000)
    after = person.visible(_T + 10_000)
    assert after != before and after.same_except_last_active(before)
    person.status_msg = "there"
    assert not person.visible(_T + 10_000).same_except_last_active(before)
    assert not before.same_except_last_active(None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ABC"), st.sampled_from((UNSET, *STATES)), st.booleans(), st.integers(0, 400_000)
        ),
        max_size=12,
    )
)  # fmt: skip
def test_nothing_changes_before_it_is_said_to(steps: list[tuple[str, str, bool, int]]) -> None:
    """What is shown stays until the next step or `next_change_ms`, whichever is first."""
    person, now = UserPresence(), _T
    for device, told, by_put, pause in steps:
        if by_put and told:
            person.note_put(device, told, now)
        else:
            person.note_sync(device, told, now, now if told in (UNSET, ONLINE) else 0)
        before, due = person.visible(now), person.next_change_ms(now)
        assert due is None or due > now
        last = now + pause if due is None else min(now + pause, due - 1)
        assert person.visible(last).same_except_last_active(before)
        now += pause
        person.forget_lapsed(now)


def test_the_devices_of_one_user_are_bounded() -> None:
    person = UserPresence()
    for number in range(100):
        person.note_sync(f"D{number}", UNSET, _T + number, _T + number)
    person.forget_lapsed(_T + 100)
    assert _state(person, _T + 100 + 30_000) == ONLINE
    assert len(person._devices) <= 20
