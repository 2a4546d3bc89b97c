"""A stage that keeps dying is not restarted in a spin, and one death does not take it down for long."""

from __future__ import annotations

import pytest

from omni_graph.supervision import Decision, Supervision, slots_after_oom


def test_one_death_is_mended_at_once() -> None:
    assert Supervision().died(now=100.0, lived_s=500.0) == Decision(100.1, False)


def test_young_deaths_back_off_and_a_long_life_forgives() -> None:
    stage = Supervision()
    delays = [stage.died(now=now, lived_s=0.0).at - now for now in (0.0, 20.0, 40.0, 60.0)]
    assert [round(delay, 3) for delay in delays] == [0.1, 0.2, 0.4, 0.8]
    assert round(stage.died(now=200.0, lived_s=100.0).at - 200.0, 3) == 0.1


def test_the_back_off_is_bounded() -> None:
    stage = Supervision()
    assert max(stage.died(now=20.0 * i, lived_s=0.0).at - 20.0 * i for i in range(40)) == 10.0


def test_more_than_three_deaths_in_thirty_seconds_open_the_circuit() -> None:
    stage = Supervision()
    decisions = [stage.died(now=float(i), lived_s=0.0) for i in range(4)]
    assert [decision.circuit_open for decision in decisions] == [False, False, False, True]
    assert decisions[-1].at == 33.0
    assert not stage.died(now=33.5, lived_s=0.0).circuit_open


@pytest.mark.parametrize(
    ("slots", "aboard", "after"),
    [(16, 2, 12), (8, 8, 6), (6, 6, 4), (2, 2, 1), (1, 2, 1), (8, 1, 8), (8, 0, 8), (1, 1, 1)],
)
def test_a_replica_that_ran_out_of_memory_takes_a_quarter_fewer_than_it_had(
    slots: int, aboard: int, after: int
) -> None:
    """Unless it had one alone: then it was that request, and not how many they were."""
    assert slots_after_oom(slots, aboard) == after
