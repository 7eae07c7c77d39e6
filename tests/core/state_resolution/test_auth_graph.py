"""Auth chains from a graph of numbers equal those found in a simple way."""

import time
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from shared.core.state_resolution.auth_graph import AuthGraph, AuthWalk


def walked(graph: AuthGraph, numbers: list[int]) -> AuthWalk:
    *_, walk = graph.walk(numbers)
    return walk


def simple_chain(auth: dict[int, list[int]], numbers: list[int]) -> set[int]:
    found: set[int] = set()
    pending = list(numbers)
    while pending:
        for number in auth[pending.pop()]:
            if number not in found:
                found.add(number)
                pending.append(number)
    return found


graphs = st.lists(st.lists(st.integers(0, 40), max_size=5), min_size=1, max_size=40)


@given(named=graphs, data=st.data())
def test_chain_equals_that_of_a_dictionary(named: list[list[int]], data: st.DataObject) -> None:
    """Circles too, which the events of versions 1 and 2 can have."""
    numbers = [7 * place + 3 for place in range(len(named))]
    auth = {n: [numbers[one % len(numbers)] for one in names] for n, names in zip(numbers, named, strict=True)}
    graph = AuthGraph()
    for number in data.draw(st.permutations(numbers)):
        graph.add(number, auth[number])
        graph.add(number, [])
    asked = data.draw(st.lists(st.sampled_from(numbers)))
    walk = walked(graph, asked)
    assert not walk.unknown
    assert sorted(walk.chain()) == sorted(simple_chain(auth, asked))


def test_walk_names_the_events_that_it_lacks() -> None:
    graph = AuthGraph()
    graph.add(5, [3, 4])
    graph.add(4, [3])
    walk = walked(graph, [5, 9])
    assert sorted(walk.unknown) == [3, 9]
    graph.add(3, [])
    graph.add(9, [5])
    assert sorted(walked(graph, [5, 9]).chain()) == [3, 4, 5]
    assert sorted(walked(graph, [4]).chain()) == [3]


def test_large_graph_is_small_and_quick_and_walked_in_pieces() -> None:
    """A chain of 20,000 power levels, and 80,000 members who name its end."""
    tracemalloc.start()
    graph = AuthGraph()
    for number in range(20_000):
        graph.add(number, [number - 1] if number else [])
    for number in range(20_000, 100_000):
        graph.add(number, [0, 1, 2, 19_999])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.7 * used < graph.size_bytes < 1.5 * used
    assert used / len(graph) < 150
    before = time.process_time()
    walks = list(graph.walk(range(20_000, 100_000)))
    took_s = time.process_time() - before
    print(f"{used / len(graph):.0f} bytes an event, {took_s * 1000:.0f} ms for a chain")
    assert len(walks) > 4 and sorted(walks[-1].chain()) == list(range(20_000))
