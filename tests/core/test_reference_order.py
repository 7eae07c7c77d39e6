"""Events are taken after those that they name, and circles are set apart, whatever the order of arrival."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.core.events.reference_order import in_reference_order
from shared.core.identifiers import EventId

_IDS = st.sampled_from([EventId(f"${letter}") for letter in "abcdefgh"])


def test_each_event_comes_after_those_it_names() -> None:
    a, b, c, unknown = (EventId(f"${name}") for name in ("a", "b", "c", "unknown"))
    assert in_reference_order({c: [b, unknown], b: [a], a: []}) == ([a, b, c], set())
    assert in_reference_order({a: [], b: [], c: []}) == ([a, b, c], set())


def test_circle_and_what_names_it_are_set_apart() -> None:
    a, b, c, d = (EventId(f"${name}") for name in "abcd")
    assert in_reference_order({a: [b], b: [a], c: [a], d: []}) == ([d], {a, b, c})
    assert in_reference_order({a: [a]}) == ([], {a})


@given(st.dictionaries(_IDS, st.lists(_IDS, max_size=4), max_size=8))
def test_every_event_is_ordered_or_set_apart(names: dict[EventId, list[EventId]]) -> None:
    ordered, circular = in_reference_order(names)
    assert sorted([*ordered, *circular]) == sorted(names)
    for place, event_id in enumerate(ordered):
        assert all(name in ordered[:place] for name in names[event_id] if name in names)
    for event_id in circular:
        assert any(name in circular for name in names[event_id])


def test_long_chains_do_not_recurse() -> None:
    ids = [EventId(f"${number}") for number in range(20_000)]
    ordered, circular = in_reference_order({one: [before] for before, one in pairwise(ids)})
    assert (ordered, circular) == (ids[1:], set())
    backwards = dict(reversed([(one, [before]) for before, one in pairwise(ids)]))
    assert in_reference_order(backwards)[0] == ids[1:]
