"""Order, cycles, reach and fork-joins of a directed graph given as names and (from, to) pairs. Pure; knows no node.

Pairs may repeat: two edges between the same nodes are two arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Pair = tuple[str, str]


def topological_order(names: Sequence[str], pairs: Iterable[Pair]) -> tuple[str, ...]:
    """``names`` so that every writer stands before its readers, else in the order given.

    Names on a cycle, or behind one, are left out (Kahn 1962).
    """
    before = {name: {start for start, end in pairs if end == name} for name in names}
    order: dict[str, None] = {}
    waiting = list(names)
    while ready := next((name for name in waiting if before[name] <= order.keys()), None):
        order[ready] = None
        waiting.remove(ready)
    return tuple(order)


def cycles(names: Sequence[str], pairs: Sequence[Pair]) -> tuple[tuple[str, ...], ...]:
    """Cycles that share no node, each as the names along it, first name repeated at the end; none if it is acyclic."""
    found: list[tuple[str, ...]] = []
    left = list(names)
    while True:
        inside = [pair for pair in pairs if pair[0] in left and pair[1] in left]
        ordered = topological_order(left, inside)
        stuck = [name for name in left if name not in ordered]
        if not stuck:
            return tuple(found)
        found.append(_cycle_behind(stuck[0], [pair for pair in inside if pair[0] in stuck]))
        left = [name for name in left if name not in found[-1]]


def _cycle_behind(name: str, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Walk back from ``name`` until a name comes again; every name here has a writer among ``pairs``."""
    walk = [name]
    while True:
        name = next(start for start, end in pairs if end == walk[-1])
        if name in walk:
            return (name, *reversed(walk[walk.index(name) :]))
        walk.append(name)


def reachable(starts: Iterable[str], pairs: Sequence[Pair]) -> frozenset[str]:
    """``starts`` and every name that a path leads to from one of them."""
    after: dict[str, list[str]] = {}
    for start, end in pairs:
        after.setdefault(start, []).append(end)
    seen: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(after.get(name, ()))
    return frozenset(seen)


def fork_joins(order: Sequence[str], pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Every (fork, join) that two arms lead between with no other name in common; ``order`` is topological.

    Two such arms exist exactly where the join has two edges that the fork reaches and its immediate dominator, seen
    from the fork, is the fork (Menger 1927).
    """
    return tuple((fork, join) for fork in order for join in _joins(fork, order, pairs))


def _joins(fork: str, order: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    dominator = {fork: fork}
    depth = {fork: 0}
    joins = []
    for name in order[order.index(fork) + 1 :]:
        arms = [start for start, end in pairs if end == name and start in dominator]
        if not arms:
            continue
        common = arms[0]
        for arm in arms[1:]:
            common = _common(common, arm, dominator, depth)
        dominator[name], depth[name] = common, depth[common] + 1
        if common == fork and len(arms) > 1:
            joins.append(name)
    return joins


def _common(left: str, right: str, dominator: dict[str, str], depth: dict[str, int]) -> str:
    while left != right:
        if depth[left] < depth[right]:
            left, right = right, left
        left = dominator[left]
    return left
