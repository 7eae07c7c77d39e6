"""Reference hashes of events that new ones may name. Room versions 1 and 2 write them beside the ids."""

from collections.abc import Iterable

from shared.core.events import Event
from shared.core.events.hashing import reference_hash
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion


class ReferenceHashes:
    """The hashes of one room. Empty in the versions whose event ids are hashes."""

    def __init__(self, version: RoomVersion) -> None:
        self._version = version
        self._state: dict[str, bytes] = {}  # kept as long as the event is state
        self._messages: dict[str, bytes] = {}  # other events may be named only until a stored event follows them

    def __len__(self) -> int:
        return len(self._state) + len(self._messages)

    def get(self, event_id: EventId) -> bytes | None:
        return self._state.get(event_id) or self._messages.get(event_id)

    def lacks(self, event_id: EventId) -> bool:
        """Return True if the event must be read before a new one can name it."""
        return self._version.references_with_hashes and self.get(event_id) is None

    def of(self, event_ids: Iterable[EventId]) -> dict[EventId, bytes] | None:
        """Return event id -> hash for the events that a new one names, None if the version does not write them."""
        if not self._version.references_with_hashes:
            return None
        return {event_id: digest for event_id in event_ids if (digest := self.get(event_id)) is not None}

    def note(self, event: Event, *, kept: int) -> None:
        """Add the hash of an event. kept: at least so many events that are not state are kept."""
        if not self._version.references_with_hashes:
            return
        digest = reference_hash(self._version, event.pdu)
        if event.is_state:
            self._state[event.event_id] = digest
            return
        self._messages[event.event_id] = digest
        while len(self._messages) > kept:
            del self._messages[next(iter(self._messages))]
