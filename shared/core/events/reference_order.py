"""The order in which events are taken: each after those that it names."""

from collections.abc import Iterable, Mapping

from shared.core.identifiers import EventId


def in_reference_order(names: Mapping[EventId, Iterable[EventId]]) -> tuple[list[EventId], set[EventId]]:
    """Return the ids in the given order, but each after those that it names, and apart from them those in circles.

    names: event id -> the events that it names as auth or previous events. Those that are no key themselves do not
        matter.
    The second set has the events of a circle and those that name one of them.
    """
    known = {event_id: [name for name in named if name in names] for event_id, named in names.items()}
    ordered: list[EventId] = []
    done: dict[EventId, bool] = {}  # False: not finished
    for first in known:
        pending = [first]
        while pending:
            event_id = pending[-1]
            if event_id in done:
                pending.pop()
                if not done[event_id] and all(done[name] for name in known[event_id]):
                    done[event_id] = True
                    ordered.append(event_id)
                continue
            done[event_id] = False
            pending += [name for name in reversed(known[event_id]) if name not in done]
    return ordered, {event_id for event_id, ended in done.items() if not ended}
