"""Whether it matters which of some events are replayed. No part of the spec: it gives the same result for less work.

To know whether an event is in the auth difference may take a look at everything that the states agree on. Where only
a few events are in doubt, to replay all combinations of them is far less, and mostly all give the same state.
"""

from collections.abc import Callable, Mapping
from itertools import combinations

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution.overlays import StateKey

#: Events replayed in all, at some 20 us each: beyond that, looking at the whole state is not much slower.
_MAX_REPLAYED = 4096
#: The same for small states, per entry: to look at an entry costs less than to replay an event.
_REPLAYED_PER_ENTRY = 4

_Outcome = dict[StateKey, EventId | None]


def same_outcome(
    replay: Callable[[Mapping[int, Event]], _Outcome],
    certain: Mapping[int, Event],
    doubtful: Mapping[int, Event],
    entries: int,
) -> _Outcome | None:
    """Return what the replay of the certain events and any of the doubtful ones gives; None if it is not the same
    for all combinations, or if there are too many to try.

    entries: how many entries of state there are to look at otherwise.
    """
    count = len(doubtful)
    if count and (len(certain) + count) << count > min(_MAX_REPLAYED, _REPLAYED_PER_ENTRY * entries):
        return None
    outcome = replay({**certain, **doubtful})
    for size in range(count):
        for some in combinations(doubtful, size):
            if replay({**certain, **{number: doubtful[number] for number in some}}) != outcome:
                return None
    return outcome
