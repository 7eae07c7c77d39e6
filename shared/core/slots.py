"""Slots: the 1024 parts into which rooms, users and destinations are dealt out among processes.

haproxy computes the same number with its `crc32` converter, so both sides hash the *bytes* of the percent-decoded
key; nothing here may normalise, lower-case or re-encode it.
"""

import zlib

SLOTS = 1024

#: The kinds of slots and the worker type that owns each.
SLOT_KINDS = {"rooms": "event_persister", "users": "client_api", "destinations": "federation_sender"}


def slot_of(key: str | bytes) -> int:
    """Return the slot, 0 to 1023, of a room id, user id or destination name.

    key: decoded, as text or as UTF-8 bytes. Text that UTF-8 cannot encode (lone surrogates) hashes its surrogate
    bytes: no such id is valid, but the answer to it must not depend on who computed the slot.
    """
    raw = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    return zlib.crc32(raw) % SLOTS
