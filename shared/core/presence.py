"""PURE: how one user is present, from what his devices do. Times are given in, in ms since 1970.

A device tells of itself by syncing (`set_presence`) and by PUT /presence; what it told last counts. A PUT holds while
the device goes on syncing without `set_presence`, since nobody who sets his presence means to lose it by the next sync.
Spec: client-server API, "Presence"; GET /sync, `set_presence`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ONLINE, UNAVAILABLE, OFFLINE = "online", "unavailable", "offline"
STATES = (ONLINE, UNAVAILABLE, OFFLINE)
#: A sync without `set_presence`: the user is online, unless the device said otherwise by PUT.
UNSAID = ""

#: A device that has not synced for so long is gone: some 30 s, and what a report of a long poll may be late.
LAPSES_AFTER_MS = 35_000
#: Who has done nothing for so long is idle: the spec's "e.g. 5 minutes".
IDLE_AFTER_MS = 300_000
#: Who did something so lately is active right now; until this ends nothing is told of what he does.
ACTIVE_FOR_MS = 60_000
_MAX_DEVICES = 20  # of one user; the one that was seen first makes room


class Shown(NamedTuple):
    """What others are shown. last_active_ms: 0 where it isn't known; a change of it alone is no news."""

    state: str
    currently_active: bool
    status_msg: str | None
    last_active_ms: int

    def same_but_for_time(self, other: "Shown | None") -> bool:
        return other is not None and self[:3] == other[:3]


@dataclass(slots=True)
class _Device:
    """state: what it is by its own account; told: `set_presence` of its last sync, None before its first one.

    set_ms: when its state was last set; by_put: by a PUT, and by no sync since.
    """

    state: str = OFFLINE
    told: str | None = None
    seen_ms: int = 0
    set_ms: int = 0
    by_put: bool = False

    def set(self, state: str, now_ms: int, *, by_put: bool) -> None:
        self.state, self.set_ms, self.by_put = state, now_ms, by_put

    def acted(self, at_ms: int) -> None:
        """Spec, "Idle timeout": any activity makes who was idle be online."""
        if self.state == UNAVAILABLE and at_ms > self.set_ms:
            self.set(ONLINE, at_ms, by_put=False)


@dataclass(slots=True)
class Person:
    """One user and his devices. status_msg: his, not a device's; last_active_ms: of all his devices."""

    status_msg: str | None = None
    last_active_ms: int = 0
    _devices: dict[str, _Device] = field(default_factory=dict)

    def synced(self, device_id: str, told: str, seen_ms: int, active_ms: int) -> None:
        """Take in that a device syncs. told: its `set_presence`, or UNSAID; seen_ms: when it was last connected;

        active_ms: when its user last did something there, as far as the reporter knows; 0: never.
        """
        device = self._device(device_id, seen_ms)
        unsaid = told in (UNSAID, OFFLINE)  # the latter: this sync does not count; no more than that
        fresh = told != device.told and not (device.by_put and device.told is None and unsaid)
        device.told = told
        if fresh:
            device.set(told or ONLINE, seen_ms, by_put=False)
        device.acted(active_ms)
        if device.state != OFFLINE:
            self.last_active_ms = max(self.last_active_ms, active_ms)

    def put(self, device_id: str, state: str, now_ms: int) -> None:
        """Take in PUT /presence/{userId}/status, which is an activity too."""
        device = self._device(device_id, now_ms)
        device.set(state, now_ms, by_put=True)
        self.last_active_ms = max(self.last_active_ms, now_ms)

    def acted(self, device_id: str, now_ms: int) -> bool:
        """Take in that the user did something here with a device; False when it isn't seen online or idle."""
        device = self._devices.get(device_id)
        if device is None or device.state == OFFLINE:
            return False
        self.last_active_ms = max(self.last_active_ms, now_ms)
        device.acted(now_ms)
        return True

    def shown(self, now_ms: int) -> Shown:
        """Return what others see at a moment: the best of the devices."""
        states = {device.state for device in self._alive(now_ms)}
        idle_ms = now_ms - self.last_active_ms
        if ONLINE in states and idle_ms < IDLE_AFTER_MS:
            state = ONLINE
        elif states & {ONLINE, UNAVAILABLE}:
            state = UNAVAILABLE
        else:
            state = OFFLINE
        active = state == ONLINE and idle_ms < ACTIVE_FOR_MS
        return Shown(state, active, self.status_msg, self.last_active_ms)

    def next_change_ms(self, now_ms: int) -> int | None:
        """Return when, at the earliest, `shown` changes by itself; None: nobody is connected, and it stays."""
        alive = list(self._alive(now_ms))
        if not alive:
            return None
        due = min(device.seen_ms for device in alive) + LAPSES_AFTER_MS
        for after_ms in (ACTIVE_FOR_MS, IDLE_AFTER_MS):
            end = self.last_active_ms + after_ms
            if end > now_ms:
                due = min(due, end)
        return due

    def forget_lapsed(self, now_ms: int) -> None:
        """Drop the devices that are gone."""
        alive = {id(device) for device in self._alive(now_ms)}
        self._devices = {key: device for key, device in self._devices.items() if id(device) in alive}

    def _alive(self, now_ms: int) -> Iterator[_Device]:
        return (device for device in self._devices.values() if now_ms - device.seen_ms < LAPSES_AFTER_MS)

    def _device(self, device_id: str, seen_ms: int) -> _Device:
        device = self._devices.get(device_id)
        if device is not None and seen_ms - device.seen_ms >= LAPSES_AFTER_MS:
            del self._devices[device_id]  # gone in between: nothing that it said before counts
            device = None
        if device is None:
            if len(self._devices) >= _MAX_DEVICES:
                del self._devices[min(self._devices, key=lambda key: self._devices[key].seen_ms)]
            device = self._devices[device_id] = _Device()
        device.seen_ms = max(device.seen_ms, seen_ms)
        return device
