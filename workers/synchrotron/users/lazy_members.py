"""Which member events each device has been sent, so that lazy loading doesn't repeat them.

Only what an answer brought that the client acknowledged, by asking with that answer's token, counts as sent. A client
that goes back to an older token, or starts afresh, begins with nothing. Forgetting is harmless: it repeats an event.
Spec: client-server API, "Lazy-loading room members".
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

_MAX_MEMBERS = 5_000  # of one device, over all rooms
_DEVICE_BYTES = 600
_MEMBER_BYTES = 300  # the entry and its ids, by tracemalloc


@dataclass(slots=True, eq=False)
class _Device:
    """sent: (room, member) -> event id; acknowledged. latest: the answer begun last, which follows the token `since`.

    token: of the latest answer, once it is put together; size_bytes: as the table knows it.
    """

    sent: dict[tuple[str, str], str] = field(default_factory=dict)
    latest: "SentMembers | None" = None
    since: str | None = None
    token: str | None = None
    size_bytes: int = 0


@dataclass(slots=True, eq=False)
class SentMembers:
    """One answer's view: what its device had when it was begun, and what it brings."""

    device: _Device
    sent: Mapping[tuple[str, str], str]
    brought: dict[tuple[str, str], str] = field(default_factory=dict)

    def is_redundant(self, room_id: str, user_id: str, event_id: str) -> bool:
        return self.sent.get((room_id, user_id)) == event_id

    def note(self, room_id: str, user_id: str, event_id: str) -> None:
        if len(self.brought) < _MAX_MEMBERS:
            self.brought[(room_id, user_id)] = event_id


class LazyMembers:
    """budget_bytes: devices that have not asked for longest are forgotten first."""

    def __init__(self, budget_bytes: int) -> None:
        self._devices: OrderedDict[tuple[str, str], _Device] = OrderedDict()
        self._budget = budget_bytes
        self._bytes = 0

    def begin(self, user_id: str, device_id: str, since: str | None) -> SentMembers:
        """Return what the device is known to have, now that it asks with this token (None: an initial sync)."""
        device = self._devices.setdefault((user_id, device_id), _Device())
        self._devices.move_to_end((user_id, device_id))
        if since is not None and since == device.token and device.latest is not None:
            device.sent = {**device.sent, **device.latest.brought} if device.latest.brought else device.sent
            if len(device.sent) > _MAX_MEMBERS:
                device.sent = {}
        elif since is None or since != device.since:
            device.sent = {}
        device.latest = SentMembers(device, device.sent)
        device.since, device.token = since, None
        self._account(device)
        return device.latest

    def answered(self, answer: SentMembers, token: str) -> None:
        """The answer with this token has been put together; nothing is noted any more."""
        device = answer.device
        if device.latest is answer and device.size_bytes:
            device.token = token
            self._account(device)

    def _account(self, device: _Device) -> None:
        brought = 0 if device.latest is None else len(device.latest.brought)
        size = _DEVICE_BYTES + _MEMBER_BYTES * (len(device.sent) + brought)
        self._bytes += size - device.size_bytes
        device.size_bytes = size
        while self._bytes > self._budget and len(self._devices) > 1:
            _, gone = self._devices.popitem(last=False)
            self._bytes -= gone.size_bytes
            gone.size_bytes = 0
