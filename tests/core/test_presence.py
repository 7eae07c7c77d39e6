"""A user's presence, computed from what their devices report. Spec: client-server API, "Presence"."""

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


def test_sync_sets_online_unless_set_presence_differs() -> None:
    for reported, state in ((UNSET, ONLINE), (ONLINE, ONLINE), (UNAVAILABLE, UNAVAILABLE), (OFFLINE, OFFLINE)):
        person = UserPresence()
        assert _state(person) == OFFLINE
        person.note_sync("A", reported, _T, _T if reported in (UNSET, ONLINE) else 0)
        assert _state(person) == state


def test_best_device_wins_and_each_device_lapses() -> None:
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


def test_user_is_idle_after_five_minutes_until_any_activity() -> None:
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
    # A user who reported to be idle is not idle any more after an activity.
    person.note_sync("A", UNAVAILABLE, end + 10, _T)
    assert _state(person, end + 10) == UNAVAILABLE
    person.note_sync("A", UNAVAILABLE, end + 20, end + 15)
    assert _state(person, end + 20) == ONLINE


def test_put_holds_until_the_device_reports_another_state() -> None:
    for state in (UNAVAILABLE, OFFLINE):
        person = UserPresence()
        person.note_put("A", state, _T)
        person.note_sync("A", UNSET, _T + 5, _T - 9)  # continues to sync as before
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
    assert _state(shown, _T + 6) == ONLINE
    back = UserPresence()
    back.note_sync("A", UNAVAILABLE, _T, 0)
    back.note_put("A", ONLINE, _T + 1)
    back.note_sync("A", UNAVAILABLE, _T + 2, 0)  # nothing new
    assert _state(back, _T + 2) == ONLINE


def test_sync_with_offline_leaves_the_presence_as_it_is() -> None:
    person = UserPresence()
    person.note_sync("A", ONLINE, _T, _T)
    person.note_sync("A", OFFLINE, _T + 3000, 0)  # a sync in the background
    assert _state(person, _T + 3000) == ONLINE
    person.note_sync("A", OFFLINE, _T + 30_000, 0)
    assert _state(person, _T + LAPSES_AFTER_MS) == OFFLINE, "only syncs that count keep a device online"
    hidden = UserPresence()
    hidden.note_sync("A", OFFLINE, _T, 0)
    assert (_state(hidden), hidden.next_change_ms(_T)) == (OFFLINE, None)
    by_put = UserPresence()
    by_put.note_put("A", UNAVAILABLE, _T)
    for later in range(0, 100_000, 20_000):
        by_put.note_sync("A", OFFLINE, _T + later, 0)
        assert _state(by_put, _T + later) == UNAVAILABLE, "the state of a PUT holds while the device is connected"
    by_put.note_sync("A", OFFLINE, _T + 200_000, 0)
    assert _state(by_put, _T + 200_000) == OFFLINE


def test_change_of_the_activity_time_alone_is_not_sent() -> None:
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
        st.tuples(st.sampled_from("ABC"), st.sampled_from((UNSET, *STATES)), st.booleans(), st.integers(0, 400_000)),
        max_size=12,
    )
)
def test_visible_presence_changes_only_at_next_change(steps: list[tuple[str, str, bool, int]]) -> None:
    """The visible presence stays the same until the next step or `next_change_ms`, whichever is first."""
    person, now = UserPresence(), _T
    for device, reported, by_put, pause in steps:
        if by_put and reported:
            person.note_put(device, reported, now)
        else:
            person.note_sync(device, reported, now, now if reported in (UNSET, ONLINE) else 0)
        before, due = person.visible(now), person.next_change_ms(now)
        assert due is None or due > now
        last = now + pause if due is None else min(now + pause, due - 1)
        assert person.visible(last).same_except_last_active(before)
        now += pause
        person.forget_lapsed(now)


def test_devices_per_user_are_limited() -> None:
    person = UserPresence()
    for number in range(100):
        person.note_sync(f"D{number}", UNSET, _T + number, _T + number)
    person.forget_lapsed(_T + 100)
    assert _state(person, _T + 100 + 30_000) == ONLINE
    assert len(person._devices) <= 20
