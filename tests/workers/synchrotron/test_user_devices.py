"""The memory of a user's devices and of other users, and its limits."""

from shared.core.identifiers import UserId
from workers.synchrotron.users.user_devices import UserDevices


def test_people_with_updates_since_a_seq() -> None:
    devices = UserDevices()
    devices.note_changed(UserId("@a:x"), 1)
    devices.note_left(UserId("@a:x"), 2)
    devices.note_changed(UserId("@b:x"), 3)
    assert list(devices.people_since(0)) == [("@a:x", True, True), ("@b:x", True, False)]
    assert list(devices.people_since(1)) == [("@a:x", False, True), ("@b:x", True, False)]
    assert list(devices.people_since(3)) == []
    devices.forget_people(4)
    assert devices.people_from == 4 and list(devices.people_since(4)) == []


def test_devices_and_people_beyond_the_limits_are_forgotten() -> None:
    devices = UserDevices()
    for number in range(1, 1_001):
        devices.note_changed(UserId(f"@{number}:x"), number)
    kept = [user_id for user_id, *_ in devices.people_since(devices.people_from)]
    assert kept == [f"@{number}:x" for number in range(devices.people_from + 1, 1_001)]
    assert 0 < len(kept) < 1_000


def test_inbox_is_empty_until_a_message_arrives() -> None:
    devices = UserDevices()
    assert not devices.device("D").inbox_is_empty  # unknown
    devices.device("D").inbox_empty_at = 5
    devices.note_message("D", 5)
    assert devices.device("D").inbox_is_empty
    devices.note_message("D", 6)
    assert not devices.device("D").inbox_is_empty
    for number in range(1_000):
        devices.note_keys(f"{number}", number)
    assert devices.device("D").inbox_empty_at is None  # forgotten: to be read again
