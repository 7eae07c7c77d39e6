"""Engine and oracle on random rooms. `make soak` runs the same tests on thousands of larger rooms."""

from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.identifiers import EventId
from shared.core.state_resolution import resolve_overlays
from shared.core.state_resolution.auth_chains import AuthGraph, walk_chains
from shared.core.state_resolution.ordering import power_ordering_depends_on, reverse_topological_power_ordering
from tests.core.state_resolution import oracle
from tests.core.state_resolution.random_rooms import RandomRoom, random_rooms
from tests.core.state_resolution.scenario import Key

Resolve = Callable[..., dict[tuple[str, str], EventId]]

SHORT = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))


def engine() -> Resolve:
    # Imported late, so that the oracle is tested without the engine.
    from shared.core.state_resolution import resolve

    return resolve


#: Entries of a big room that never change. Only there the engine defers the question of the auth difference.
AGREED = {("m.agreed", str(number)): EventId(f"$agreed{number}") for number in range(200)}


def check_overlays(room: RandomRoom, data: st.DataObject) -> None:
    """With any base for the states, the resolved state is the same, and the result has no unchanged entries."""
    base = data.draw(
        st.sampled_from([*room.states, {}, dict(list(room.states[0].items())[::2])])
        if data.draw(st.booleans())
        else st.fixed_dictionaries({}, optional={key: st.just(event_id) for key, event_id in room.states[0].items()})
    )
    keys = [*base, *(key for state in room.states for key in state)]
    overlays: list[dict[Key, EventId | None]] = []
    for state in room.states:
        named = {key: state.get(key) for key in keys}
        needed = {key: value for key, value in named.items() if value != base.get(key)}
        overlays.append(named if data.draw(st.booleans()) else needed)
    if data.draw(st.booleans()):
        base = {**AGREED, **base}
    asked: list[EventId] = []
    result = resolve_overlays(
        room.version,
        base,
        overlays,
        room.find,
        rejected=room.rejected.__contains__,
        prefetch=asked.extend,
        create=room.create,
    )
    merged = {key: value for key, value in {**base, **result}.items() if value is not None}
    assert {key: value for key, value in merged.items() if key not in AGREED} == room.resolve(
        oracle.resolve, room.states
    )
    assert all(value != base.get(key) for key, value in result.items())
    held = {event_id for state in room.states for event_id in state.values()}
    assert set(asked) <= held | set(AGREED.values())


def check_order_and_idempotence(room: RandomRoom, resolve: Resolve, order: st.DataObject) -> None:
    """The states are a set, so order and repetition do not matter. Resolving the result again changes nothing."""
    result = room.resolve(resolve, room.states)
    shuffled = order.draw(st.permutations(room.states))
    # Also the order of entries in each state.
    assert room.resolve(resolve, [dict(reversed(state.items())) for state in shuffled]) == result
    assert room.resolve(resolve, [*room.states, room.states[0]]) == result
    assert room.resolve(resolve, [result]) == result
    assert room.resolve(resolve, [result, result]) == result


@SHORT
@given(room=random_rooms())
def test_engine_and_oracle_agree(room: RandomRoom) -> None:
    assert room.resolve(engine(), room.states) == room.resolve(oracle.resolve, room.states)


@settings(SHORT, max_examples=250)
@given(room=random_rooms(), data=st.data())
def test_resolution_is_the_same_for_any_base(room: RandomRoom, data: st.DataObject) -> None:
    check_overlays(room, data)


def check_power_ordering(room: RandomRoom, data: st.DataObject) -> bool:
    """Check that the order is the same with all choices of the other events, if it is said not to depend on them.

    Return True if it was said so although events had to wait.
    """
    graph = AuthGraph(room.find)
    chosen = data.draw(st.lists(st.sampled_from(list(room.events)), min_size=2, max_size=8, unique=True))
    events = {graph.number_of(event_id): room.events[event_id] for event_id in chosen if room.find(event_id)}
    chains = walk_chains(graph, events)
    below = [number for number in chains.ordered if number not in events and room.find(graph.ids[number])]
    picked = data.draw(st.lists(st.sampled_from(below), max_size=4, unique=True)) if below else []
    others = {number: room.events[graph.ids[number]] for number in picked}
    if power_ordering_depends_on(room.version, room.create, room.find, graph, events, others):
        return False
    orders = set()
    for size in range(len(others) + 1):
        for some in combinations(others, size):
            all_of_them = {**events, **{number: others[number] for number in some}}
            ordered = reverse_topological_power_ordering(room.version, room.create, room.find, graph, all_of_them)
            orders.add(tuple(event for event in ordered if graph.number_of(event.event_id) in events))
    assert len(orders) == 1
    return bool(others)


@settings(SHORT, max_examples=250)
@given(room=random_rooms(), data=st.data())
def test_power_ordering_is_independent_when_said_so(room: RandomRoom, data: st.DataObject) -> None:
    check_power_ordering(room, data)


@settings(SHORT, max_examples=150)
@given(room=random_rooms(), order=st.data())
def test_engine_ignores_order_of_states(room: RandomRoom, order: st.DataObject) -> None:
    check_order_and_idempotence(room, engine(), order)


@settings(SHORT, max_examples=50)
@given(room=random_rooms(), order=st.data())
def test_oracle_ignores_order_of_states(room: RandomRoom, order: st.DataObject) -> None:
    check_order_and_idempotence(room, oracle.resolve, order)


@pytest.mark.soak
@LONG
@given(room=random_rooms(max_events=48), order=st.data())
def test_engine_and_oracle_agree_on_thousands_of_rooms(room: RandomRoom, order: st.DataObject) -> None:
    assert room.resolve(engine(), room.states) == room.resolve(oracle.resolve, room.states)
    check_order_and_idempotence(room, engine(), order)
    check_overlays(room, order)
    check_power_ordering(room, order)
