"""Reading `m.room.history_visibility`. Spec: client-server API, "Room history visibility"."""

from enum import StrEnum

from shared.core.events.event import Event


class HistoryVisibility(StrEnum):
    """The users who may read an event that was sent under this visibility."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


def history_visibility_of(event: Event | None) -> HistoryVisibility:
    """Return the visibility, "shared" if there is no event or its value is unknown."""
    value = event.content.get("history_visibility") if event is not None else None
    try:
        return HistoryVisibility(value) if isinstance(value, str) else HistoryVisibility.SHARED
    except ValueError:
        return HistoryVisibility.SHARED
