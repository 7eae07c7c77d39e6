"""Reports of syncing devices from synchrotrons to the owners of users, with many users in one call."""

import msgspec

from replication.slots.table import SlotTable
from shared.core.identifiers import UserId
from shared.http.internal_calls import InternalClient, ProcessCall

_TIMEOUT_S = 5.0


class DevicePresence(msgspec.Struct, frozen=True, kw_only=True):
    """One device that syncs."""

    user_id: UserId
    device_id: str
    #: The parameter of the sync, "" if absent.
    set_presence: str
    #: Milliseconds since the device was connected.
    seen_ago_ms: int = 0
    #: Milliseconds since the user did something, None if unknown.
    active_ago_ms: int | None = None


class PresenceReport(msgspec.Struct, frozen=True):
    devices: list[DevicePresence]


class PresenceAnswer(msgspec.Struct, frozen=True):
    """elsewhere: users whose slots another process owns."""

    elsewhere: list[str] = []


REPORT_PRESENCE = ProcessCall(
    name="report_presence",
    path="/_skep/presence/report",
    pool="client",
    takes=PresenceReport,
    returns=PresenceAnswer,
    method="POST",
)


class PresenceOwners:
    """The owners of users, for reports. The slot table is a hint: an owner names the users that are not its own."""

    def __init__(self, slots: SlotTable, client: InternalClient) -> None:
        self._slots = slots
        self._client = client

    def owner(self, slot: int) -> str | None:
        """Return the address of the owner of a slot of users."""
        return self._slots.address("users", slot)

    async def learn_owners(self) -> None:
        """Read the slot table again. Raises Unavailable."""
        await self._slots.refresh()

    async def report(self, address: str, devices: list[DevicePresence]) -> frozenset[str]:
        """Report devices to one owner. Return the users whose slots another process owns. Raises RemoteServerError."""
        answer = await self._client.ask(address, REPORT_PRESENCE, PresenceReport(devices), timeout_s=_TIMEOUT_S)
        return frozenset(answer.elsewhere)
