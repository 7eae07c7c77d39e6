"""The member events that each device has been sent, so that lazy loading does not repeat them.

An event counts as sent once the client acknowledges its response, by a request with that response's token. A client
that returns to an older token or syncs from scratch starts with none. Evicting a device is harmless: its member events
are sent once more. Spec: client-server API, "Lazy-loading room members".
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.cache.sizes import text_size
from shared.core.identifiers import EventId, RoomId, UserId

_MAX_MEMBERS = 5_000  # per device, in all rooms
#: Measured with tracemalloc.
_DEVICE_BYTES = 1_100
_MEMBER_BYTES = 190  # an entry with its room id, without the other ids


@dataclass(slots=True, eq=False)
class _Device:
    #: Acknowledged event ids by (room, member).
    sent: dict[tuple[RoomId, UserId], EventId] = field(default_factory=dict)
    sent_bytes: int = 0
    #: The response begun last, which follows the token `since`.
    latest: "SentMembers | None" = None
    since: str | None = None
    #: The token of the latest response, once it is complete.
    token: str | None = None
    #: The size accounted for in `LazyMembers`.
    size_bytes: int = 0


@dataclass(slots=True, eq=False)
class SentMembers:
    """The member events of one response: `sent` before it, and `added` by it."""

    device: _Device
    sent: Mapping[tuple[RoomId, UserId], EventId]
    added: dict[tuple[RoomId, UserId], EventId] = field(default_factory=dict)
    added_bytes: int = 0

    def is_redundant(self, room_id: RoomId, user_id: UserId, event_id: EventId) -> bool:
        return self.sent.get((room_id, user_id)) == event_id

    def note(self, room_id: RoomId, user_id: UserId, event_id: EventId) -> None:
        if len(self.added) < _MAX_MEMBERS:
            self.added[(room_id, user_id)] = event_id
            self.added_bytes += _MEMBER_BYTES + text_size(user_id) + text_size(event_id)


class LazyMembers:
    """The sent member events of all devices. Devices are evicted least recently used first."""

    def __init__(self, budget_bytes: int) -> None:
        self._devices: OrderedDict[tuple[UserId, str], _Device] = OrderedDict()
        self._budget = budget_bytes
        self._bytes = 0

    def begin(self, user_id: UserId, device_id: str, since: str | None) -> SentMembers:
        """Begin a response to a request with the token `since`, None for an initial sync."""
        device = self._devices.setdefault((user_id, device_id), _Device())
        self._devices.move_to_end((user_id, device_id))
        if since is not None and since == device.token and device.latest is not None:
            if device.latest.added:
                device.sent = {**device.sent, **device.latest.added}
                device.sent_bytes += device.latest.added_bytes
            if len(device.sent) > _MAX_MEMBERS:
                device.sent, device.sent_bytes = {}, 0
        elif since is None or since != device.since:
            device.sent, device.sent_bytes = {}, 0
        device.latest = SentMembers(device, device.sent)
        device.since, device.token = since, None
        self._account(device)
        return device.latest

    def complete(self, response: SentMembers, token: str) -> None:
        """Note the token of a response that is complete."""
        device = response.device
        if device.latest is response and device.size_bytes:
            device.token = token
            self._account(device)

    def _account(self, device: _Device) -> None:
        added_bytes = 0 if device.latest is None else device.latest.added_bytes
        size = _DEVICE_BYTES + device.sent_bytes + added_bytes
        self._bytes += size - device.size_bytes
        device.size_bytes = size
        while self._bytes > self._budget and len(self._devices) > 1:
            _, gone = self._devices.popitem(last=False)
            self._bytes -= gone.size_bytes
            gone.size_bytes = 0
