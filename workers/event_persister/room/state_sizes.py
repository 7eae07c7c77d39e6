"""The bytes of a room's current state, which is in memory wherever readers are served.

Usual member events do not count: a room may have any number of members, and processes do not keep those of large rooms.
A member event of 64 KB counts, since users who may ban can make any number of them.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from shared.core.errors import MatrixError
from workers.event_persister.room.drafts import StateKey

#: What an entry takes beside its JSON, and what a PDU has beside its content.
ENTRY_BYTES, _PDU_BYTES = 600, 400
_LARGEST_EVENT_BYTES = 65_536
#: Member events that are not longer do not count.
USUAL_MEMBER_BYTES = 2_048
_MEMBER, _TOMBSTONE = "m.room.member", "m.room.tombstone"


class StateSizes:
    """The sizes of the entries by key."""

    def __init__(self) -> None:
        self._sizes: dict[StateKey, int] = {}
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def set(self, key: StateKey, json_bytes: int) -> None:
        """Set the size of an entry that is new or changed."""
        self.remove(key)
        if key[0] == _MEMBER and json_bytes <= USUAL_MEMBER_BYTES:
            return
        self._sizes[key] = ENTRY_BYTES + json_bytes
        self.total_bytes += ENTRY_BYTES + json_bytes

    def remove(self, key: StateKey) -> None:
        self.total_bytes -= self._sizes.pop(key, 0)

    def check(self, key: StateKey, content: Mapping[str, Any], most_bytes: int) -> None:
        """Raise M_TOO_LARGE (413) if the state would be too large with this content, and larger than it is."""
        if key[0] == _TOMBSTONE:
            return  # an upgrade is a way out
        if self.total_bytes + ENTRY_BYTES + _LARGEST_EVENT_BYTES <= most_bytes:
            return
        json_bytes = _PDU_BYTES + len(orjson.dumps(content))
        if key[0] == _MEMBER and json_bytes <= USUAL_MEMBER_BYTES:
            return
        size = ENTRY_BYTES + json_bytes
        grown = self.total_bytes + size - self._sizes.get(key, 0)
        if self.total_bytes < grown > most_bytes:
            raise MatrixError(
                "M_TOO_LARGE",
                f"The state of a room may take at most {most_bytes} bytes. Shorten other state first, such as to {{}}",
                413,
            )
