"""PURE: what a synchrotron knows of one user's devices, and of the people whose devices concern him.

Numbers (`seq`) count the rows that this process has applied, as in `sync_user.py`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from shared.storage.encryption.device_keys import KeyCounts

#: News of more people, or devices, than these are read from Postgres by who needs them.
_MAX_PEOPLE = 200
_MAX_DEVICES = 50


@dataclass(slots=True)
class DeviceMemory:
    """One device.

    inbox_news: number of the last row that put a message into its inbox; inbox_clear: the inbox was empty when this
    number had been reached; None: unknown, or something lies there. keys: its counts, None: to be read;
    keys_news: number of the last row that changed them.
    """

    inbox_news: int = 0
    inbox_clear: int | None = None
    keys: KeyCounts | None = None
    keys_news: int = 0

    @property
    def inbox_is_clear(self) -> bool:
        return self.inbox_clear is not None and self.inbox_news <= self.inbox_clear


@dataclass(slots=True)
class _Person:
    """Numbers of the last rows: after which his devices must be asked for; with which he went from a shared room."""

    changed: int = 0
    gone: int = 0


class UserDevices:
    """Invariant: every person with news after number `people_from` is among those remembered."""

    def __init__(self) -> None:
        self.people_from = 0
        self._devices: OrderedDict[str, DeviceMemory] = OrderedDict()
        self._people: OrderedDict[str, _Person] = OrderedDict()

    def device(self, device_id: str) -> DeviceMemory:
        """Return what is known of a device; of a new one nothing is."""
        known = self._devices.get(device_id)
        if known is None:
            known = self._devices[device_id] = DeviceMemory()
            if len(self._devices) > _MAX_DEVICES:
                self._devices.popitem(last=False)
        self._devices.move_to_end(device_id)
        return known

    def note_message(self, device_id: str, seq: int) -> None:
        self.device(device_id).inbox_news = seq

    def note_keys(self, device_id: str, seq: int) -> None:
        device = self.device(device_id)
        device.keys, device.keys_news = None, seq

    def note_changed(self, user_id: str, seq: int) -> None:
        """Somebody's devices changed, or he came into a shared room."""
        self._person(user_id).changed = seq

    def note_gone(self, user_id: str, seq: int) -> None:
        """Somebody went from a shared room; there may be others."""
        self._person(user_id).gone = seq

    def forget_people(self, seq: int) -> None:
        """The user himself came into a room, or went: of all in it there is news up to now that is not here."""
        self.people_from = seq
        self._people.clear()

    def people_since(self, seq: int) -> Iterator[tuple[str, bool, bool]]:
        """Yield (user id, changed, gone) of people with news after a number that is at least `people_from`."""
        for user_id, person in self._people.items():
            changed, gone = person.changed > seq, person.gone > seq
            if changed or gone:
                yield user_id, changed, gone

    def _person(self, user_id: str) -> _Person:
        person = self._people.get(user_id)
        if person is None:
            person = self._people[user_id] = _Person()
            if len(self._people) > _MAX_PEOPLE:
                _, oldest = self._people.popitem(last=False)
                self.people_from = max(self.people_from, oldest.changed, oldest.gone)
        self._people.move_to_end(user_id)
        return person
