"""The expected state of a room with branches, computed from its events without the persister's code."""

from collections.abc import Iterable, Sequence

from load.harness.generated_room import GeneratedRoom
from shared.core.events import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution import Overlay, StateKey, resolve_overlays


def expected_state(
    room: GeneratedRoom, branched: Iterable[Event], extremities: Sequence[EventId], rejected: frozenset[EventId]
) -> dict[StateKey, EventId]:
    """Return the resolution of the states after the extremities.

    branched: all events outside of the line, each after its previous events. States are overlays of the state at the
        end of the line.
    """
    base = room.state()
    after: dict[EventId, Overlay] = {}
    events = dict(room.events)

    def state_after(event_id: EventId) -> Overlay:
        index = room.index.get(event_id)
        if index is not None and event_id not in after:
            after[event_id] = room.difference(index)
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
