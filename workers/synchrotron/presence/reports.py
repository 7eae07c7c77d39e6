"""Telling the owners of users who syncs here: beside the requests, many devices in one call, each every 25 s at most
or when it changes.

While a request waits its device is connected, however long that takes; afterwards it is for as long as the owner waits
for the next one. Spec: client-server API, GET /sync, `set_presence`.
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
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.presence import LAPSES_AFTER_MS, OFFLINE, ONLINE, UNSET
from shared.core.rows import NO_DEVICE, EventRow
from shared.core.slots import SLOTS, slot_of
from shared.runtime.clock import Clock

logger = logging.getLogger(__name__)

_EVERY_S = 25.0
_LOOK_EVERY_S = 1.0
_GATHER_S = 0.05  # changes of this time go together
_BATCH = 500  # devices in one call
_MAX_DEVICES = 50_000  # some 400 bytes each; who comes beyond is not told of


class OwnerCalls(Protocol):
    """The part of `PresenceOwners` used here."""

    def owner(self, slot: int) -> str | None: ...
    async def learn_owners(self) -> None: ...
    async def report(self, address: str, devices: list[DevicePresence]) -> frozenset[str]: ...


@dataclass(slots=True, eq=False)
class _Device:
    """told: `set_presence`; requests: under way; seen_s: when the last one ended; active_s: when the user last did

    something, None: not that we know; told_s, told_active_s: when that was last reported; queued: to be looked at.
    """

    user_id: str
    device_id: str
    told: str
    slot: int
    requests: int = 0
    seen_s: float = 0.0
    active_s: float | None = None
    told_s: float = float("-inf")
    told_active_s: float = float("-inf")
    queued: bool = False


class PresenceReports:
    """enabled: false: nobody is told of."""

    def __init__(self, calls: OwnerCalls, clock: Clock, *, enabled: bool) -> None:
        self._calls = calls
        self._clock = clock
        self._enabled = enabled
        self._users: dict[str, dict[str, _Device]] = {}
        self._count = 0
        self._changed: set[_Device] = set()
        self._queue: list[tuple[float, int, _Device]] = []  # reported ones, by when they are looked at again
        self._numbers = itertools.count()  # devices have no order
        self._owners: list[str | None] = [None] * SLOTS
        self._news = asyncio.Event()

    @contextmanager
    def syncing(self, user_id: str, device_id: str | None, told: str) -> Iterator[None]:
        """Count a device as connected while a request runs or waits. told: `set_presence`, "" without."""
        device = self._enter(user_id, device_id or "", told) if self._enabled else None
        try:
            yield
        finally:
            if device is not None:
                device.requests -= 1
                device.seen_s = self._clock.monotonic_s()

    def acted(self, user_id: str) -> None:
        """Take in that a user sent something."""
        devices = self._users.get(user_id)
        if devices is None:
            return
        now_s = self._clock.monotonic_s()
        for device in devices.values():
            device.active_s = now_s
            if now_s - device.told_active_s >= _EVERY_S:
                self._note(device)

    def apply_events(self, rows: Iterable[EventRow]) -> None:
        """Count what people send as activity of theirs: a look into a table for each event."""
        for row in rows:
            if row.sender in self._users and row.txn_device != NO_DEVICE:
                self.acted(row.sender)

    async def run(self) -> None:
        """Report what is due. Runs for ever."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._news.wait()
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            self._news.clear()
            await self.report_due()

    async def report_due(self) -> None:
        """Report what changed, what is due again, and to new owners what they can't know."""
        now_s = self._clock.monotonic_s()
        self._note_new_owners()
        while self._queue and self._queue[0][0] <= now_s:
            *_, device = heapq.heappop(self._queue)
            device.queued = False
            if device.told_s + _EVERY_S > now_s:
                self._look_again(device)  # reported in between, for a change
            elif device.requests or device.seen_s > device.told_s:
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
        wrong = await asyncio.gather(*(self._report(owner, devices) for owner, devices in by_owner.items()))
        if any(wrong):
            try:
                await self._calls.learn_owners()
            except Unavailable:
                return  # the next look tries again

    async def _report(self, owner: str, devices: list[_Device]) -> bool:
        """Tell one owner; return whether some were not his, or he did not answer."""
        wrong = False
        for start in range(0, len(devices), _BATCH):
            batch = devices[start : start + _BATCH]
            now_s = self._clock.monotonic_s()
            try:
                elsewhere = await self._calls.report(owner, [_as_reported(device, now_s) for device in batch])
            except RemoteServerError as error:
                logger.info("The owner of users at %s did not take a report: %s", owner, error)
                self._changed.update(devices[start:])
                return True
            for device in batch:
                if device.user_id in elsewhere:
                    self._changed.add(device)
                    wrong = True
                    continue
                device.told_s = now_s
                if not device.queued:
                    self._look_again(device)
                if device.active_s is not None:
                    device.told_active_s = device.active_s
        return wrong

    def _enter(self, user_id: str, device_id: str, told: str) -> _Device | None:
        now_s = self._clock.monotonic_s()
        devices = self._users.setdefault(user_id, {})
        device = devices.get(device_id)
        if device is None:
            if self._count >= _MAX_DEVICES:
                if not devices:
                    del self._users[user_id]
                return None
            device = devices[device_id] = _Device(user_id, device_id, told, slot_of(user_id))
            self._count += 1
            device.active_s = now_s if told in (UNSET, ONLINE) else None
            self._note(device)
        elif told == OFFLINE != device.told and (device.requests or now_s - device.seen_s < LAPSES_AFTER_MS / 1000):
            return None  # a sync that does not count beside those that do
        elif told != device.told:
            device.told = told
            if told in (UNSET, ONLINE):
                device.active_s = now_s
            self._note(device)
        device.requests += 1
        device.seen_s = now_s
        return device

    def _note(self, device: _Device) -> None:
        self._changed.add(device)
        self._news.set()

    def _look_again(self, device: _Device) -> None:
        device.queued = True
        heapq.heappush(self._queue, (device.told_s + _EVERY_S, next(self._numbers), device))

    def _forget(self, device: _Device) -> None:
        devices = self._users[device.user_id]
        del devices[device.device_id]
        if not devices:
            del self._users[device.user_id]
        self._count -= 1

    def _note_new_owners(self) -> None:
        owners = [self._calls.owner(slot) for slot in range(SLOTS)]
        if owners == self._owners:
            return
        moved = {slot for slot in range(SLOTS) if owners[slot] is not None and owners[slot] != self._owners[slot]}
        self._owners = owners
        for devices in self._users.values():
            self._changed.update(device for device in devices.values() if device.slot in moved)


def _as_reported(device: _Device, now_s: float) -> DevicePresence:
    seen_s = now_s if device.requests else device.seen_s
    active_s = device.active_s
    return DevicePresence(
        user_id=device.user_id,
        device_id=device.device_id,
        told=device.told,
        seen_ago_ms=_ms(now_s - seen_s),
        active_ago_ms=None if active_s is None else _ms(now_s - active_s),
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
