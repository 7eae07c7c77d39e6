"""The rows of the streams `to_device`, `device_lists` and `one_time_keys`."""

import msgspec

from shared.core.identifiers import UserId


class ToDeviceRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A new message in the inbox of a device."""

    position: int
    writer: int
    user_id: UserId
    device_id: str
    #: The previous message of the same sending device, when another writer wrote it. A reader that lacks it must
    #: repair first.
    prior_writer: int | None = None
    prior_position: int | None = None


class DeviceListRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A change of a user's devices or of their identity keys."""

    position: int
    writer: int
    user_id: UserId


class OneTimeKeyRow(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """An upload or claim of one-time or fallback keys of a device."""

    position: int
    writer: int
    user_id: UserId
    device_id: str
