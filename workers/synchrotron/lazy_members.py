"""Which member events each device has been sent, so that lazy loading doesn't repeat them.

Only what an answer brought that the client acknowledged, by asking with that answer's token, counts as sent. A client
that goes back to an older token, or starts afresh, begins with nothing. Forgetting is harmless: it repeats an event.
Spec: client-server API, "Lazy-loading room members".
"""

from collections import OrderedDict
from dataclasses import dataclass, field

_MAX_DEVICES = 10_000
_MAX_MEMBERS = 5_000  # of one device, over all rooms


@dataclass(slots=True)
class SentMembers:
    """sent: (room, member) -> event id; acknowledged. pending: of the latest answer. token: that answer's."""

    sent: dict[tuple[str, str], str] = field(default_factory=dict)
    pending: dict[tuple[str, str], str] = field(default_factory=dict)
    since: str | None = None
    token: str | None = None

    def is_redundant(self, room_id: str, user_id: str, event_id: str) -> bool:
        return self.sent.get((room_id, user_id)) == event_id

    def note(self, room_id: str, user_id: str, event_id: str) -> None:
        self.pending[(room_id, user_id)] = event_id


class LazyMembers:
    def __init__(self) -> None:
        self._devices: OrderedDict[tuple[str, str], SentMembers] = OrderedDict()

    def begin(self, user_id: str, device_id: str, since: str | None) -> SentMembers:
        """Return what the device is known to have, now that it asks with this token (None: an initial sync)."""
        device = self._devices.get((user_id, device_id))
        if device is None:
            device = self._devices[(user_id, device_id)] = SentMembers()
            if len(self._devices) > _MAX_DEVICES:
                self._devices.popitem(last=False)
        self._devices.move_to_end((user_id, device_id))
        if since is not None and since == device.token:
            device.sent.update(device.pending)
            if len(device.sent) > _MAX_MEMBERS:
                device.sent = {}
        elif since is None or since != device.since:
            device.sent = {}
        device.pending = {}
        device.since, device.token = since, None
        return device

    @staticmethod
    def answered(device: SentMembers, token: str) -> None:
        """The answer with this token has been put together."""
        device.token = token
