"""Slots: the 1024 parts into which rooms, users, destinations and fetches are divided among processes.

haproxy computes the same number with its `crc32` converter. So both hash the *bytes* of the percent-decoded key, and
nothing here may normalise, lower-case or re-encode it.
"""

import zlib

SLOTS = 1024

#: The kinds of slots and the worker type that owns each.
SLOT_KINDS = {
    "rooms": "event_persister",
    "users": "client_api",
    "destinations": "federation_sender",
    "fetches": "federation_reader",  # questions to other servers, about a room or about what one of them has
}


def slot_of(key: str | bytes) -> int:
    """Return the slot, 0 to 1023, of a room id, user id or destination name.

    key: decoded, as text or as UTF-8 bytes. Lone surrogates, which UTF-8 cannot encode, are hashed as surrogate bytes.
        No such id is valid, but every process must compute the same slot for it.
    """
    raw = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return zlib.crc32(raw) % SLOTS
