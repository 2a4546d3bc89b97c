"""Order, cycles, reach and fork-joins, each against its definition, on small graphs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from omni_graph.paths import cycles, fork_joins, reachable, topological_order


@dataclass(frozen=True)
class Drawn:
    names: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def graphs(*, acyclic: bool) -> st.SearchStrategy[Drawn]:
    names = tuple("abcdef")
    ends = st.tuples(st.integers(0, 5), st.integers(0, 5))
    pairs = st.lists(ends.filter(lambda pair: pair[0] < pair[1] or not acyclic), max_size=12)
    return pairs.map(lambda drawn: Drawn(names, tuple((names[a], names[b]) for a, b in drawn)))


@given(graphs(acyclic=False))
def test_an_order_exists_exactly_where_there_is_no_cycle(graph: Drawn) -> None:
    order, found = topological_order(graph.names, graph.pairs), cycles(graph.names, graph.pairs)
    assert (len(order) == len(graph.names)) == (not found)
    for start, end in graph.pairs:
        assert end not in order or order.index(start) < order.index(end)
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert set(pairwise(cycle)) <= set(graph.pairs)


@given(graphs(acyclic=True))
def test_a_fork_join_is_two_ways_that_share_no_name_between(graph: Drawn) -> None:
    def ways(start: str, end: str) -> list[tuple[int, ...]]:
        """Every path as the numbers of its edges."""
        if start == end:
            return [()]
        steps = [(number, pair[1]) for number, pair in enumerate(graph.pairs) if pair[0] == start]
        return [(number, *rest) for number, middle in steps for rest in ways(middle, end)]

    def apart(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
        between = [{graph.pairs[number][1] for number in way[:-1]} for way in (one, two)]
        return one != two and not (between[0] & between[1])

    expected = {
        (fork, join)
        for fork in graph.names
        for join in graph.names
        if fork != join and any(apart(one, two) for one in ways(fork, join) for two in ways(fork, join))
    }
    assert set(fork_joins(graph.names, graph.pairs)) == expected


@given(graphs(acyclic=False), st.sampled_from("abcdef"))
def test_reachable_is_closed_and_no_larger_than_it_must_be(graph: Drawn, start: str) -> None:
    reached = reachable([start], graph.pairs)
    assert start in reached
    assert all(end in reached for begin, end in graph.pairs if begin in reached)
    assert all(name == start or any(end == name and begin in reached for begin, end in graph.pairs) for name in reached)
