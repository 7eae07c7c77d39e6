"""Reference hashes of the events that new ones may name: room versions 1 and 2 write them beside the ids."""

from collections.abc import Iterable

from shared.core.events import Event
from shared.core.events.hashing import reference_hash
from shared.core.room_versions import RoomVersion


class ReferenceHashes:
    """Empty, and asked for nothing, in the versions whose ids are hashes already."""

    def __init__(self, version: RoomVersion) -> None:
        self._version = version
        self._state: dict[str, bytes] = {}  # state is named for as long as it is state
        self._messages: dict[str, bytes] = {}  # another event only while nothing stored follows it

    def __len__(self) -> int:
        return len(self._state) + len(self._messages)

    def get(self, event_id: str) -> bytes | None:
        return self._state.get(event_id) or self._messages.get(event_id)

    def lacks(self, event_id: str) -> bool:
        """Whether the event must be read before a new one can name it."""
        return self._version.references_with_hashes and self.get(event_id) is None

    def of(self, event_ids: Iterable[str]) -> dict[str, bytes] | None:
        """Return event id -> hash for a new event's references; None where the version writes none."""
        if not self._version.references_with_hashes:
            return None
        return {event_id: digest for event_id in event_ids if (digest := self.get(event_id)) is not None}

    def note(self, event: Event, *, kept: int) -> None:
        """Take in an event. kept: so many events that are no state are kept at least."""
        if not self._version.references_with_hashes:
            return
        digest = reference_hash(self._version, event.pdu)
        if event.is_state:
            self._state[event.event_id] = digest
            return
        self._messages[event.event_id] = digest
        while len(self._messages) > kept:
            del self._messages[next(iter(self._messages))]
