"""The rows of each stream. Frames carry them and catch-up queries return them, with the same fields.

A new field goes to the end and has a default. Readers ignore fields that they do not know.
"""

from shared.core.rows.accounts import (
    GLOBAL,
    AccountDataRow,
    PushRulesRow,
    ReceiptRow,
    SessionRow,
    ThreadSubscriptionRow,
)
from shared.core.rows.devices import DeviceListRow, OneTimeKeyRow, ToDeviceRow
from shared.core.rows.ephemeral import PresenceRow, TypingRow
from shared.core.rows.events import NO_DEVICE, EventRow, PushRedacted

__all__ = [
    "GLOBAL",
    "NO_DEVICE",
    "AccountDataRow",
    "DeviceListRow",
    "EventRow",
    "OneTimeKeyRow",
    "PresenceRow",
    "PushRedacted",
    "PushRulesRow",
    "ReceiptRow",
    "SessionRow",
    "ThreadSubscriptionRow",
    "ToDeviceRow",
    "TypingRow",
]
