"""The calls to owners of users. They may be repeated at any time."""

import msgspec

from shared.core.identifiers import RoomId
from shared.http.internal_calls import Empty, OwnerCall


class RoomSettings(msgspec.Struct, frozen=True):
    """The room whose settings are copied, and the room that replaced it."""

    old_room_id: RoomId
    new_room_id: RoomId


class SettingsCopied(msgspec.Struct, frozen=True):
    """copied: False while the old room does not name the new one as its successor."""

    copied: bool


#: Copy a user's settings for a room to the room that replaced it.
COPY_ROOM_SETTINGS = OwnerCall(
    name="copy_room_settings",
    path="/_skep/users/{userId}/room_settings",
    pool="client",
    takes=RoomSettings,
    returns=SettingsCopied,
)


class ClosedAccount(msgspec.Struct, frozen=True):
    """erase: True if the user's data go, apart from their events."""

    erase: bool


#: Remove what a closed account leaves behind, apart from its rooms.
CLEAR_ACCOUNT = OwnerCall(
    name="clear_account",
    path="/_skep/users/{userId}/closed_account",
    pool="client",
    takes=ClosedAccount,
    returns=Empty,
)


class NewPassword(msgspec.Struct, frozen=True):
    """logout_devices: True if all of the user's sessions end."""

    password: str
    logout_devices: bool = True


#: Set the password of an account, as an operator does. Raises M_NOT_FOUND, M_WEAK_PASSWORD.
RESET_PASSWORD = OwnerCall(
    name="reset_password",
    path="/_skep/users/{userId}/password",
    pool="client",
    takes=NewPassword,
    returns=Empty,
)

#: Close an account at once, as an operator does. A background job leaves its rooms. Raises M_NOT_FOUND.
CLOSE_ACCOUNT = OwnerCall(
    name="close_account",
    path="/_skep/users/{userId}/deactivation",
    pool="client",
    takes=ClosedAccount,
    returns=Empty,
)


class AdminRights(msgspec.Struct, frozen=True):
    admin: bool


#: Make an account an administrator, or take the rights away. Raises M_NOT_FOUND.
SET_ADMIN = OwnerCall(
    name="set_admin",
    path="/_skep/users/{userId}/admin",
    pool="client",
    takes=AdminRights,
    returns=Empty,
)
