"""The state that a room with branches should have, worked out from its events without the persister's code."""

from collections.abc import Iterable, Sequence

from load.made_room import MadeRoom
from shared.core.events import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution import Overlay, StateKey, resolve_overlays


def replayed_state(
    room: MadeRoom, branched: Iterable[Event], extremities: Sequence[EventId], rejected: frozenset[EventId]
) -> dict[StateKey, EventId]:
    """Return the resolution of the states after the extremities.

    branched: all events beside the room's line, each after those that it names. Every state is kept as an overlay
    upon the state at the line's end, which only has to hold one entry for each key.
    """
    base = room.state()
    after: dict[EventId, Overlay] = {}
    events = dict(room.events)

    def state_after(event_id: EventId) -> Overlay:
        place = room.place.get(event_id)
        if place is not None and event_id not in after:
            after[event_id] = room.difference(place)
        return after[event_id]

    def resolved(event_ids: Sequence[EventId]) -> Overlay:
        overlays = [state_after(EventId(event_id)) for event_id in event_ids]
        if len(overlays) == 1:
            return overlays[0]
        return resolve_overlays(
            room.version, base, overlays, events.get, rejected=rejected.__contains__, create=room.create
        )

    for event in branched:
        events[event.event_id] = event
        state = resolved(event.prev_event_ids)
        if event.state_key is not None and event.event_id not in rejected:
            state = {**state, (event.type, event.state_key): event.event_id}
        after[event.event_id] = state
    end = resolved(extremities)
    whole = {**base, **end}
    return {key: event_id for key, event_id in whole.items() if event_id is not None}
