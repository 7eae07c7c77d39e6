"""The calls to owners of users. They may be repeated at any time."""

import msgspec

from shared.http.internal_calls import Empty, OwnerCall


class RoomSettings(msgspec.Struct, frozen=True):
    """The room whose settings are copied, and the room that replaced it."""

    old_room_id: str
    new_room_id: str


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
