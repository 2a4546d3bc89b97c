"""A refused caller is told when to come back: soon where the queue moves, late where it stands still."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omni_graph.pace import LEAST_S, MOST_S, Pace


def pace(*admitted: float) -> Pace:
    made = Pace()
    for at in admitted:
        made.admitted(at)
    return made


def test_the_wait_is_the_queue_over_its_pace() -> None:
    moving = pace(*(0.5 * i for i in range(20)))
    assert moving.retry_after_s(10, 10.0) == 5
    assert moving.retry_after_s(20, 10.0) == 10


def test_a_queue_that_stands_still_says_the_longest() -> None:
    assert pace().retry_after_s(1, 10.0) == MOST_S
    assert pace(1.0, 2.0).retry_after_s(1, 2.1 + MOST_S) == MOST_S


def test_a_queue_that_flies_says_the_shortest() -> None:
    assert pace(*(0.001 * i for i in range(64))).retry_after_s(3, 0.1) == LEAST_S


@given(st.lists(st.floats(0, 100)), st.integers(0, 1000))
def test_always_within_its_bounds(admitted: list[float], waiting: int) -> None:
    assert LEAST_S <= pace(*sorted(admitted)).retry_after_s(waiting, 100.0) <= MOST_S
