"""PURE: one user's devices as known here, and the device list updates that they must get.

A `seq` counts the rows that this process has applied, as in `sync_user.py`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from shared.cache.sizes import deep_size, text_size
from shared.core.identifiers import UserId
from shared.storage.encryption.device_keys import KeyCounts

#: Beyond these numbers, responses read device list updates and key counts from Postgres.
_MAX_PEOPLE = 200
_MAX_DEVICES = 50
_MAX_COUNTS_BYTES = 4_096  # of one device: a client may invent algorithms. Larger counts are read for each response
#: Measured with tracemalloc, without the ids.
_DEVICE_BYTES = 350
_PERSON_BYTES = 330


@dataclass(slots=True)
class DeviceMemory:
    """One device."""

    #: The seq of the last row that put a message into the inbox.
    inbox_changed: int = 0
    #: The seq at which the inbox was empty. None: unknown, or there are messages.
    inbox_empty_at: int | None = None
    #: The counts of its keys. None: to be read. `UserDevices.set_keys` sets them.
    keys: KeyCounts | None = None
    #: The seq of the last row that changed the key counts.
    keys_changed: int = 0

    @property
    def inbox_is_empty(self) -> bool:
        return self.inbox_empty_at is not None and self.inbox_changed <= self.inbox_empty_at


@dataclass(slots=True)
class _Person:
    """Another user with a device list update."""

    #: The seq of the last row after which their device list is out of date.
    changed: int = 0
    #: The seq of the last row by which they left a shared room.
    left: int = 0


class UserDevices:
    """Invariant: every other user with an update after `people_from` is among `_people`."""

    def __init__(self) -> None:
        self.people_from = 0
        self._devices: OrderedDict[str, DeviceMemory] = OrderedDict()
        self._people: OrderedDict[UserId, _Person] = OrderedDict()
        #: The memory that all of it takes.
        self.size_bytes = 0

    def device(self, device_id: str) -> DeviceMemory:
        """Return the memory of a device; an empty one for a new device."""
        known = self._devices.get(device_id)
        if known is None:
            known = self._devices[device_id] = DeviceMemory()
            self.size_bytes += _DEVICE_BYTES + text_size(device_id)
            if len(self._devices) > _MAX_DEVICES:
                oldest, gone = self._devices.popitem(last=False)
                self.size_bytes -= _DEVICE_BYTES + text_size(oldest) + _keys_size(gone)
        self._devices.move_to_end(device_id)
        return known

    def note_message(self, device_id: str, seq: int) -> None:
        self.device(device_id).inbox_changed = seq

    def note_keys(self, device_id: str, seq: int) -> None:
        device = self.device(device_id)
        self.size_bytes -= _keys_size(device)
        device.keys, device.keys_changed = None, seq

    def set_keys(self, device: DeviceMemory, keys: KeyCounts) -> None:
        """Keep the counts of a device's keys, unless they are large."""
        self.size_bytes -= _keys_size(device)
        device.keys = keys if deep_size(keys) <= _MAX_COUNTS_BYTES else None
        self.size_bytes += _keys_size(device)

    def note_changed(self, user_id: UserId, seq: int) -> None:
        """Note that another user's devices changed, or that they joined a shared room."""
        self._person(user_id).changed = seq

    def note_left(self, user_id: UserId, seq: int) -> None:
        """Note that another user left a shared room. Other rooms may still be shared."""
        self._person(user_id).left = seq

    def forget_people(self, seq: int) -> None:
        """Forget all updates, after a join or leave of the user themselves: it concerns every member of the room."""
        self.people_from = seq
        self.size_bytes -= sum(_PERSON_BYTES + text_size(user_id) for user_id in self._people)
        self._people.clear()

    def people_since(self, seq: int) -> Iterator[tuple[UserId, bool, bool]]:
        """Yield (user id, changed, left) of users with updates after `seq`, which is at least `people_from`."""
        for user_id, person in self._people.items():
            changed, left = person.changed > seq, person.left > seq
            if changed or left:
                yield user_id, changed, left

    def _person(self, user_id: UserId) -> _Person:
        person = self._people.get(user_id)
        if person is None:
            person = self._people[user_id] = _Person()
            self.size_bytes += _PERSON_BYTES + text_size(user_id)
            if len(self._people) > _MAX_PEOPLE:
                gone, oldest = self._people.popitem(last=False)
                self.size_bytes -= _PERSON_BYTES + text_size(gone)
                self.people_from = max(self.people_from, oldest.changed, oldest.left)
        self._people.move_to_end(user_id)
        return person


def _keys_size(device: DeviceMemory) -> int:
    return 0 if device.keys is None else deep_size(device.keys)
