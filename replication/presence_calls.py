"""How a synchrotron tells the owners of users who syncs: many users in one call, and never in a request's way."""

import msgspec

from replication.slots.table import SlotTable
from shared.core.errors import RemoteServerError
from shared.http.client import HttpClient
from shared.http.server import FORWARDED

REPORT_PATH = "/_skep/presence/report"
_TIMEOUT_S = 5.0


class DevicePresence(msgspec.Struct, frozen=True):
    """One device that syncs. told: its `set_presence`, "" without; seen_ago_ms: how long ago it was connected;

    active_ago_ms: how long ago its user did something, None: not that we know.
    """

    user_id: str
    device_id: str
    told: str
    seen_ago_ms: int = 0
    active_ago_ms: int | None = None


class PresenceReport(msgspec.Struct, frozen=True):
    devices: list[DevicePresence]


class PresenceAnswer(msgspec.Struct, frozen=True):
    """elsewhere: users whose slots the asked one does not own."""

    elsewhere: list[str] = []


class PresenceCalls:
    """slots: hints only; who is wrong says so."""

    def __init__(self, slots: SlotTable, client: HttpClient, secret: str) -> None:
        self._slots = slots
        self._client = client
        self._headers = {
            b"authorization": b"Bearer " + secret.encode(),
            b"content-type": b"application/json",
            FORWARDED: b"1",
        }

    def owner(self, slot: int) -> str | None:
        """Return the address of who owns a slot of users."""
        return self._slots.address("users", slot)

    async def learn_owners(self) -> None:
        """Read afresh who owns what. Raises Unavailable."""
        await self._slots.refresh()

    async def report(self, address: str, devices: list[DevicePresence]) -> frozenset[str]:
        """Tell one owner of devices; return the users whose slots are another's. Raises RemoteServerError."""
        body = msgspec.json.encode(PresenceReport(devices))
        url = f"http://{address}{REPORT_PATH}".encode()
        answer = await self._client.request(b"POST", url, self._headers, body, timeout_s=_TIMEOUT_S)
        if answer.status != 200:
            raise RemoteServerError(f"the owner of users answered {answer.status}")
        return frozenset(msgspec.json.decode(answer.body, type=PresenceAnswer).elsewhere)
