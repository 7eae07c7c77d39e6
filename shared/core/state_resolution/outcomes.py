"""Detection of replays whose result does not depend on the doubtful events. This saves work and is not in the spec.

To know if an event is in the auth difference may take a look at the whole agreed state. If only a few events are
doubtful, replaying all combinations of them costs much less, and mostly all give the same state.
"""

from collections.abc import Callable, Mapping
from itertools import combinations

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution.overlays import StateKey

#: The limit of replayed events, at some 20 us each. Beyond it, looking at the whole state is not much slower.
_MAX_REPLAYED = 4096
#: The limit per entry of small states. Looking at an entry costs less than replaying an event.
_REPLAYED_PER_ENTRY = 4

_Outcome = dict[StateKey, EventId | None]


def same_outcome(
    replay: Callable[[Mapping[int, Event]], _Outcome],
    certain: Mapping[int, Event],
    doubtful: Mapping[int, Event],
    entries: int,
) -> _Outcome | None:
    """Return the result of replaying the certain events with any combination of the doubtful ones.

    It is None if the results differ, or if there are too many combinations to try.
    entries: the number of entries of the agreed state, to be looked at otherwise.
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
