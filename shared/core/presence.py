"""A user's presence, computed from what their devices report. Times are arguments, in ms since 1970.

A device reports by syncing (`set_presence`) and by PUT /presence; the latest report counts. The state of a PUT stays
while the device syncs without `set_presence`, since its next sync would undo it otherwise.
Spec: client-server API, "Presence"; GET /sync, `set_presence`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ONLINE, UNAVAILABLE, OFFLINE = "online", "unavailable", "offline"
STATES = (ONLINE, UNAVAILABLE, OFFLINE)
#: A sync without `set_presence`: the user is online, unless the device set another state by PUT.
UNSET = ""

#: A device that has not synced for this long is gone: some 30 s, and the delay of a long poll's report.
LAPSES_AFTER_MS = 35_000
#: A user without any activity for this long is idle: the spec's "e.g. 5 minutes".
IDLE_AFTER_MS = 300_000
#: A user is currently active for this long after an activity. Further activity meanwhile is not reported to others.
ACTIVE_FOR_MS = 60_000
_MAX_DEVICES = 20  # per user; the device seen least recently is evicted


class VisiblePresence(NamedTuple):
    """The presence that others see. last_active_ms: 0 if unknown; a change of it alone is not sent to others."""

    state: str
    currently_active: bool
    status_msg: str | None
    last_active_ms: int

    def same_except_last_active(self, other: "VisiblePresence | None") -> bool:
        return other is not None and self[:3] == other[:3]


@dataclass(slots=True)
class _Device:
    """The presence of one device.

    state: as the device reported it.
    set_presence: of its latest sync, None before the first one.
    seen_ms: when it was last connected.
    set_ms: when its state was last set.
    by_put: True if a PUT set the state, and no sync since.
    """

    state: str = OFFLINE
    set_presence: str | None = None
    seen_ms: int = 0
    set_ms: int = 0
    by_put: bool = False

    def set(self, state: str, now_ms: int, *, by_put: bool) -> None:
        self.state, self.set_ms, self.by_put = state, now_ms, by_put

    def note_activity(self, at_ms: int) -> None:
        """Set an idle user online. Spec, "Idle timeout": any activity does so."""
        if self.state == UNAVAILABLE and at_ms > self.set_ms:
            self.set(ONLINE, at_ms, by_put=False)


@dataclass(slots=True)
class UserPresence:
    """The presence of one user and their devices.

    status_msg: of the user, not of one device.
    last_active_ms: the latest activity on any device.
    """

    status_msg: str | None = None
    last_active_ms: int = 0
    _devices: dict[str, _Device] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """The number of devices that are, or were lately, connected."""
        return len(self._devices)

    def note_sync(self, device_id: str, set_presence: str, seen_ms: int, active_ms: int) -> None:
        """Record that a device syncs.

        set_presence: of the request, or UNSET. A sync with OFFLINE leaves the presence as it is.
        seen_ms: when the device was last connected.
        active_ms: the user's latest activity there, as far as the reporter knows; 0 for never.
        """
        if set_presence == OFFLINE:
            self._keep_put_state(device_id, seen_ms)
            return
        device = self._device(device_id, seen_ms)
        unset = set_presence == UNSET
        changed = set_presence != device.set_presence and not (device.by_put and device.set_presence is None and unset)
        device.set_presence = set_presence
        if changed:
            device.set(set_presence or ONLINE, seen_ms, by_put=False)
        device.note_activity(active_ms)
        if device.state != OFFLINE:
            self.last_active_ms = max(self.last_active_ms, active_ms)

    def _keep_put_state(self, device_id: str, seen_ms: int) -> None:
        """Keep the state of a PUT while the device is connected by syncs that do not count otherwise."""
        device = self._devices.get(device_id)
        if device is not None and device.by_put and seen_ms - device.seen_ms < LAPSES_AFTER_MS:
            device.seen_ms = max(device.seen_ms, seen_ms)

    def note_put(self, device_id: str, state: str, now_ms: int) -> None:
        """Record a PUT /presence/{userId}/status, which is an activity too."""
        device = self._device(device_id, now_ms)
        device.set(state, now_ms, by_put=True)
        self.last_active_ms = max(self.last_active_ms, now_ms)

    def note_activity(self, device_id: str, now_ms: int) -> bool:
        """Record an activity of the user on a device. Return False if the device is not online or idle."""
        device = self._devices.get(device_id)
        if device is None or device.state == OFFLINE:
            return False
        self.last_active_ms = max(self.last_active_ms, now_ms)
        device.note_activity(now_ms)
        return True

    def visible(self, now_ms: int) -> VisiblePresence:
        """Return what others see at a moment: the best of all devices."""
        states = {device.state for device in self._alive(now_ms)}
        idle_ms = now_ms - self.last_active_ms
        if ONLINE in states and idle_ms < IDLE_AFTER_MS:
            state = ONLINE
        elif states & {ONLINE, UNAVAILABLE}:
            state = UNAVAILABLE
        else:
            state = OFFLINE
        active = state == ONLINE and idle_ms < ACTIVE_FOR_MS
        return VisiblePresence(state, active, self.status_msg, self.last_active_ms)

    def next_change_ms(self, now_ms: int) -> int | None:
        """Return the earliest time at which `visible` changes by itself, None if no device is connected."""
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
        """Remove the devices that are gone."""
        alive = {id(device) for device in self._alive(now_ms)}
        self._devices = {key: device for key, device in self._devices.items() if id(device) in alive}

    def _alive(self, now_ms: int) -> Iterator[_Device]:
        return (device for device in self._devices.values() if now_ms - device.seen_ms < LAPSES_AFTER_MS)

    def _device(self, device_id: str, seen_ms: int) -> _Device:
        device = self._devices.get(device_id)
        if device is not None and seen_ms - device.seen_ms >= LAPSES_AFTER_MS:
            del self._devices[device_id]  # it was gone in between, so its former reports do not count
            device = None
        if device is None:
            if len(self._devices) >= _MAX_DEVICES:
                del self._devices[min(self._devices, key=lambda key: self._devices[key].seen_ms)]
            device = self._devices[device_id] = _Device()
        device.seen_ms = max(device.seen_ms, seen_ms)
        return device
