"""The resumable solver and the noise against transformers' and torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.qwen2_5_omni.flow_matching import EVALUATIONS, Noise, Trajectory, evaluation_times, solver_times


def test_a_trajectory_is_transformers_solver_stopped_after_every_evaluation() -> None:
    start = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    asked: list[float] = []

    def velocity(time: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        asked.append(float(time))
        return torch.sin(3 * time) * value - value**2 / 5

    expected = reference.RungeKutta4ODESolver(velocity, start).integrate(solver_times())[-1]
    times = evaluation_times()
    assert asked == times.tolist() and len(asked) == EVALUATIONS == 36
    trajectory = Trajectory(start)
    while not trajectory.done:
        trajectory.advance(velocity(times[trajectory.evaluation], trajectory.point()))
    torch.testing.assert_close(trajectory.value, expected, atol=1e-6, rtol=0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=6), st.integers(0, 2**63 - 1))
def test_noise_of_any_window_is_a_slice_of_the_one_shot_draw(steps: list[tuple[int, int]], seed: int) -> None:
    """Also where frames before the first window were never asked for: a restart draws and drops them."""
    whole = torch.randn([1, 400, 80], generator=torch.Generator().manual_seed(seed))[0]
    noise, lo = Noise(seed, 80), 0
    for skip, length in steps:
        lo += skip
        assert torch.equal(noise.frames(lo, lo + length), whole[lo : lo + length])


@pytest.mark.parametrize("seed", [0, 7])
def test_noise_is_what_transformers_draws_after_manual_seed(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.randn([1, 50, 80])[0]
    assert torch.equal(Noise(seed, 80).frames(0, 50), expected)


def test_noise_below_the_window_is_forgotten() -> None:
    noise = Noise(0, 80)
    for lo in range(0, 5000, 100):
        noise.frames(lo, lo + 240)
    assert noise.kept == 240
