"""Identifiers and their grammar. Spec: appendices, "Identifier Grammar".

    @localpart:server     user
    !opaque:server        room (versions 1 to 11)
    !43 characters        room (version 12 on): the create event's hash, without a server
    #localpart:server     room alias
    $opaque[:server]      event

This server accepts identifiers of others that it would not create: historical user ids hold any code point but ":"
and NUL. All limits are in bytes of UTF-8, sigil and server name included.
"""

import re
import string
from typing import NewType

from shared.core.errors import MatrixError, invalid_param

UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
ServerName = NewType("ServerName", str)
RoomAlias = NewType("RoomAlias", str)
DeviceId = NewType("DeviceId", str)

MAX_ID_BYTES = 255

# server_name = hostname [":" port]; hostname = dns-name / "[" IPv6address "]". An IPv4 literal is also a dns-name.
_SERVER_NAME = r"(?:[0-9A-Za-z.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
# Historical localparts may hold any code point but ":" and NUL, and may be empty. Surrogates fail the byte limit.
_LOCALPART = r"[^:\x00]*"

_SERVER_NAME_RE = re.compile(_SERVER_NAME)
_USER_ID_RE = re.compile(f"@{_LOCALPART}:{_SERVER_NAME}")
_ROOM_ALIAS_RE = re.compile(f"#{_LOCALPART}:{_SERVER_NAME}")
_ROOM_ID_WITH_SERVER_RE = re.compile(f"!{_LOCALPART}:{_SERVER_NAME}")
_ROOM_ID_OF_HASH_RE = re.compile(r"![0-9A-Za-z_-]{43}")
_EVENT_ID_RE = re.compile(r"\$[^\x00]+")
_REGISTRATION_LOCALPART_RE = re.compile(r"[a-z0-9._=/+-]+")
_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def within_bytes(text: str, limit: int = MAX_ID_BYTES) -> bool:
    """Return True if the text has a UTF-8 form (no lone surrogate) of at most `limit` bytes."""
    if text.isascii():
        return len(text) <= limit
    try:
        return len(text.encode()) <= limit
    except UnicodeEncodeError:
        return False


def is_server_name(text: str) -> bool:
    """Return True if the text is a server name. Names are case-sensitive; this server never changes them."""
    return _SERVER_NAME_RE.fullmatch(text) is not None and len(text) <= MAX_ID_BYTES


def is_user_id(text: str) -> bool:
    """Return True if servers must accept this user id. Historical user ids are included.

    Spec: appendices, "Historical User IDs".
    """
    return _USER_ID_RE.fullmatch(text) is not None and within_bytes(text)


def is_room_alias(text: str) -> bool:
    """Return True if this is a room alias. Its localpart may hold anything but ":" and NUL."""
    return _ROOM_ALIAS_RE.fullmatch(text) is not None and within_bytes(text)


def is_room_id_with_server(text: str) -> bool:
    """Return True if this is a room id of room versions 1 to 11."""
    return _ROOM_ID_WITH_SERVER_RE.fullmatch(text) is not None and within_bytes(text)


def is_room_id_of_hash(text: str) -> bool:
    """Return True if this is a room id of room version 12: "!" and 43 characters of URL-safe base64."""
    return _ROOM_ID_OF_HASH_RE.fullmatch(text) is not None


def is_event_id(text: str) -> bool:
    """Return True if this may be an event id. The room version may restrict it further."""
    return _EVENT_ID_RE.fullmatch(text) is not None and within_bytes(text)


def check_server_name(text: str) -> ServerName:
    """Return the text as a server name. Raises MatrixError M_INVALID_PARAM."""
    if not is_server_name(text):
        raise _ill_formed("server name")
    return ServerName(text)


def check_user_id(text: str) -> UserId:
    """Return the text as a user id. Historical ones pass. Raises MatrixError M_INVALID_PARAM."""
    if not is_user_id(text):
        raise _ill_formed("user id")
    return UserId(text)


def check_room_id(text: str) -> RoomId:
    """Return the text as a room id of any room version. Raises MatrixError M_INVALID_PARAM."""
    if not (is_room_id_of_hash(text) or is_room_id_with_server(text)):
        raise _ill_formed("room id")
    return RoomId(text)


def check_event_id(text: str) -> EventId:
    """Return the text as an event id of any room version. Raises MatrixError M_INVALID_PARAM."""
    if not is_event_id(text):
        raise _ill_formed("event id")
    return EventId(text)


def check_room_alias(text: str) -> RoomAlias:
    """Return the text as a room alias. Raises MatrixError M_INVALID_PARAM."""
    if not is_room_alias(text):
        raise _ill_formed("room alias")
    return RoomAlias(text)


def parse_user_id(text: str) -> tuple[str, ServerName]:
    """Return localpart (without "@", may be empty) and server name. Raises MatrixError M_INVALID_PARAM."""
    return _split(check_user_id(text))


def parse_room_alias(text: str) -> tuple[str, ServerName]:
    """Return localpart (without "#", may be empty) and server name. Raises MatrixError M_INVALID_PARAM."""
    return _split(check_room_alias(text))


def server_of(identifier: str) -> ServerName:
    """Return the server name in a user id, an alias, or a room or event id that has one.

    Raises MatrixError M_INVALID_PARAM if there is none (room ids of version 12, event ids from version 3 on).
    """
    _, colon, server = identifier.partition(":")
    if not colon:
        raise invalid_param("This identifier names no server")
    return ServerName(server)


def lower_ascii(text: str) -> str:
    """Return the text with A-Z in lower case. `str.lower` also turns other letters into ASCII, such as U+212A."""
    return text.translate(_TO_LOWER)


def is_valid_localpart_for_registration(localpart: str) -> bool:
    """Return True if a *new* user may have this localpart: not empty, only a-z 0-9 . _ = / + -.

    `check_user_id` checks that the whole user id fits in 255 bytes. Spec: appendices, "User Identifiers".
    """
    return _REGISTRATION_LOCALPART_RE.fullmatch(localpart) is not None


def _split(identifier: str) -> tuple[str, ServerName]:
    # A localpart has no colon, a server name may have several: the first colon separates.
    localpart, _, server = identifier[1:].partition(":")
    return localpart, ServerName(server)


def _ill_formed(what: str) -> MatrixError:
    # Without the text: it may be huge, or unfit for a log.
    return invalid_param(f"Ill-formed {what}")
