"""Reports of syncing devices to the owners of their users' slots, for the users' presence.

A device is reported every 25 s while it syncs, and when it changes. Reports run beside the requests, with many devices
in one call. A device counts as connected while its request waits, however long, and afterwards for as long as the owner
waits for its next request. Spec: client-server API, GET /sync, `set_presence`.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from replication.calls.presence import DevicePresence
from shared.cache.sizes import text_size
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.identifiers import UserId
from shared.core.presence import LAPSES_AFTER_MS, OFFLINE, ONLINE, UNSET
from shared.core.rows import NO_DEVICE, EventRow
from shared.core.slots import SLOTS, slot_of
from shared.runtime.clock import Clock

logger = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 25.0
_CHECK_INTERVAL_S = 1.0
_GATHER_S = 0.05  # changes within this time share a call
_BATCH = 500  # devices in one call
_MAX_BYTES = 32 << 20  # of devices; further ones are not reported
_DEVICE_BYTES = 330  # with its places in the dictionaries and the queue, without its ids


class OwnerCalls(Protocol):
    """The part of `PresenceOwners` used here."""

    def owner(self, slot: int) -> str | None: ...
    async def learn_owners(self) -> None: ...
    async def report(self, address: str, devices: list[DevicePresence]) -> frozenset[str]: ...


@dataclass(slots=True, eq=False)
class _Device:
    """A device that syncs here, or did recently."""

    user_id: UserId
    device_id: str
    #: `set_presence` of its latest request.
    set_presence: str
    slot: int
    #: The number of requests under way.
    requests: int = 0
    #: When its last request ended.
    seen_s: float = 0.0
    #: When the user was last active. None: unknown.
    active_s: float | None = None
    #: When the device, and the activity, were last reported.
    reported_s: float = float("-inf")
    reported_active_s: float = float("-inf")
    #: True while it is in the queue.
    queued: bool = False


class PresenceReports:
    """The devices that sync here. Without `enabled` nothing is reported."""

    def __init__(self, calls: OwnerCalls, clock: Clock, *, enabled: bool) -> None:
        self._calls = calls
        self._clock = clock
        self._enabled = enabled
        self._users: dict[UserId, dict[str, _Device]] = {}
        self.size_bytes = 0
        self._changed: set[_Device] = set()
        self._queue: list[tuple[float, int, _Device]] = []  # reported devices by the time of their next check
        self._numbers = itertools.count()  # orders devices with the same time
        self._owners: list[str | None] = [None] * SLOTS
        self._has_changes = asyncio.Event()

    @contextmanager
    def syncing(self, user_id: UserId, device_id: str | None, set_presence: str) -> Iterator[None]:
        """Count a device as connected while a request runs or waits. set_presence: "" without the parameter."""
        device = self._enter(user_id, device_id or "", set_presence) if self._enabled else None
        try:
            yield
        finally:
            if device is not None:
                device.requests -= 1
                device.seen_s = self._clock.monotonic_s()

    def acted(self, user_id: UserId) -> None:
        """Note that a user was active."""
        devices = self._users.get(user_id)
        if devices is None:
            return
        now_s = self._clock.monotonic_s()
        for device in devices.values():
            device.active_s = now_s
            if now_s - device.reported_active_s >= _REPORT_INTERVAL_S:
                self._note_change(device)

    def apply_events(self, rows: Iterable[EventRow]) -> None:
        """Count events as activity of their senders, by one dictionary look-up per event."""
        for row in rows:
            if row.sender in self._users and row.txn_device != NO_DEVICE:
                self.acted(row.sender)

    async def run(self) -> None:
        """Report devices when they are due. Runs until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(_CHECK_INTERVAL_S):
                    await self._has_changes.wait()
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            self._has_changes.clear()
            await self.report_due()

    async def report_due(self) -> None:
        """Report devices that changed, that are due again, and that have a new owner."""
        now_s = self._clock.monotonic_s()
        self._note_new_owners()
        while self._queue and self._queue[0][0] <= now_s:
            *_, device = heapq.heappop(self._queue)
            device.queued = False
            if device.reported_s + _REPORT_INTERVAL_S > now_s:
                self._enqueue(device)  # it was reported in between, after a change
            elif device.requests or device.seen_s > device.reported_s:
                self._changed.add(device)
            elif device not in self._changed:
                self._forget(device)
        if not self._changed:
            return
        due, self._changed = self._changed, set()
        by_owner: dict[str, list[_Device]] = {}
        for device in due:
            owner = self._calls.owner(device.slot)
            if owner is None:
                self._changed.add(device)
            else:
                by_owner.setdefault(owner, []).append(device)
        moved = await asyncio.gather(*(self._report(owner, devices) for owner, devices in by_owner.items()))
        if any(moved):
            try:
                await self._calls.learn_owners()
            except Unavailable:
                return  # the next check tries again

    async def _report(self, owner: str, devices: list[_Device]) -> bool:
        """Report to one owner. Return True if some users have another owner, or the call failed."""
        moved = False
        for start in range(0, len(devices), _BATCH):
            batch = devices[start : start + _BATCH]
            now_s = self._clock.monotonic_s()
            try:
                elsewhere = await self._calls.report(owner, [_as_reported(device, now_s) for device in batch])
            except RemoteServerError as error:
                logger.info("Reporting presence to the owner of users at %s failed: %s", owner, error)
                self._changed.update(devices[start:])
                return True
            for device in batch:
                if device.user_id in elsewhere:
                    self._changed.add(device)
                    moved = True
                    continue
                device.reported_s = now_s
                if not device.queued:
                    self._enqueue(device)
                if device.active_s is not None:
                    device.reported_active_s = device.active_s
        return moved

    def _enter(self, user_id: UserId, device_id: str, set_presence: str) -> _Device | None:
        now_s = self._clock.monotonic_s()
        devices = self._users.setdefault(user_id, {})
        device = devices.get(device_id)
        if device is None:
            if self.size_bytes >= _MAX_BYTES:
                if not devices:
                    del self._users[user_id]
                return None
            device = devices[device_id] = _Device(user_id, device_id, set_presence, slot_of(user_id))
            self.size_bytes += _size(device)
            device.active_s = now_s if set_presence in (UNSET, ONLINE) else None
            self._note_change(device)
        elif set_presence == OFFLINE != device.set_presence and self._is_connected(device, now_s):
            return None  # a background sync changes nothing while the device syncs otherwise
        elif set_presence != device.set_presence:
            device.set_presence = set_presence
            if set_presence in (UNSET, ONLINE):
                device.active_s = now_s
            self._note_change(device)
        device.requests += 1
        device.seen_s = now_s
        return device

    @staticmethod
    def _is_connected(device: _Device, now_s: float) -> bool:
        return device.requests > 0 or now_s - device.seen_s < LAPSES_AFTER_MS / 1000

    def _note_change(self, device: _Device) -> None:
        self._changed.add(device)
        self._has_changes.set()

    def _enqueue(self, device: _Device) -> None:
        device.queued = True
        heapq.heappush(self._queue, (device.reported_s + _REPORT_INTERVAL_S, next(self._numbers), device))

    def _forget(self, device: _Device) -> None:
        devices = self._users[device.user_id]
        del devices[device.device_id]
        if not devices:
            del self._users[device.user_id]
        self.size_bytes -= _size(device)

    def _note_new_owners(self) -> None:
        owners = [self._calls.owner(slot) for slot in range(SLOTS)]
        if owners == self._owners:
            return
        moved = {slot for slot in range(SLOTS) if owners[slot] is not None and owners[slot] != self._owners[slot]}
        self._owners = owners
        for devices in self._users.values():
            self._changed.update(device for device in devices.values() if device.slot in moved)


def _size(device: _Device) -> int:
    return _DEVICE_BYTES + text_size(device.user_id) + text_size(device.device_id)


def _as_reported(device: _Device, now_s: float) -> DevicePresence:
    seen_s = now_s if device.requests else device.seen_s
    active_s = device.active_s
    return DevicePresence(
        user_id=device.user_id,
        device_id=device.device_id,
        set_presence=device.set_presence,
        seen_ago_ms=_ms(now_s - seen_s),
        active_ago_ms=None if active_s is None else _ms(now_s - active_s),
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
