"""Conditional flow matching, resumable: the ODE of one window, stopped after every velocity, and its noise.

The same arithmetic, in the same order, as transformers' RungeKutta4ODESolver (classical 3/8 rule) and
Qwen2_5OmniToken2WavDiTModel.sample; it never evaluates the network itself.
"""

from __future__ import annotations

import torch

SOLVER_STEPS = 10  # points on the time axis, as Qwen2_5OmniToken2WavModel.forward's num_steps
SWAY = -1.0
STAGES = 4  # evaluations of one Runge-Kutta step
EVALUATIONS = STAGES * (SOLVER_STEPS - 1)


def solver_times() -> torch.Tensor:
    """The points (SOLVER_STEPS,) float32 in 0..1, with sway sampling (F5-TTS, arXiv:2410.06885, section 3.3)."""
    time = torch.linspace(0, 1, SOLVER_STEPS)
    return time + SWAY * (torch.cos(torch.pi / 2 * time) - 1 + time)


def evaluation_times() -> torch.Tensor:
    """The times (EVALUATIONS,) float32 at which the velocity is wanted, in order."""
    times = solver_times()
    start, end = times[:-1], times[1:]
    step = end - start
    return torch.stack((start, start + step * (1 / 3), start + step * (2 / 3), end), dim=1).flatten()


def step_sizes() -> tuple[float, ...]:
    """The length of each Runge-Kutta step, exact float32 values."""
    times = solver_times()
    return tuple((times[1:] - times[:-1]).tolist())


STEP_SIZES = step_sizes()


class Trajectory:
    """One window's way from noise to mel; ``point`` says where a velocity is wanted, ``advance`` brings it.

    ``evaluation`` counts the velocities brought; the value is final after EVALUATIONS of them.
    """

    __slots__ = ("_slopes", "_value", "evaluation")

    def __init__(self, noise: torch.Tensor) -> None:
        self._value = noise
        self._slopes: list[torch.Tensor] = []
        self.evaluation = 0

    @property
    def value(self) -> torch.Tensor:
        """The state (frames, mel) after the last whole step."""
        return self._value

    @property
    def done(self) -> bool:
        return self.evaluation == EVALUATIONS

    def point(self) -> torch.Tensor:
        """The state (frames, mel) at which the next velocity is wanted, at ``evaluation_times()[evaluation]``."""
        step = STEP_SIZES[self.evaluation // STAGES]
        match self._slopes:
            case [k1]:
                return self._value + step * k1 * (1 / 3)
            case [k1, k2]:
                return self._value + step * (k2 - k1 * (1 / 3))
            case [k1, k2, k3]:
                return self._value + step * (k1 - k2 + k3)
        return self._value

    def advance(self, velocity: torch.Tensor) -> None:
        """Take the velocity (frames, mel) at ``point()``."""
        self._slopes.append(velocity)
        if len(self._slopes) == STAGES:
            k1, k2, k3, k4 = self._slopes
            step = STEP_SIZES[self.evaluation // STAGES]
            self._value = self._value + (k1 + 3 * (k2 + k3) + k4) * step / 8
            self._slopes.clear()
        self.evaluation += 1


class Noise:
    """A request's noise by absolute frame: each frame drawn once, in order, kept until no window can want it.

    Equal to the first rows of ``torch.randn([1, T, mel])`` after ``torch.manual_seed(seed)``: the CPU generator fills
    16 values at a time, so draws of whole frames continue each other as long as ``mel`` is a multiple of 16.
    """

    def __init__(self, seed: int, mel: int) -> None:
        assert mel % 16 == 0, mel
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._first = 0
        self._frames = torch.empty(0, mel)

    @property
    def kept(self) -> int:
        """Frames held in memory."""
        return len(self._frames)

    def frames(self, lo: int, hi: int) -> torch.Tensor:
        """Frames [lo, hi) (hi - lo, mel) float32 on the CPU; frames below ``lo`` are forgotten."""
        assert self._first <= lo <= hi, (self._first, lo, hi)
        missing = hi - self._first - len(self._frames)
        if missing > 0:
            drawn = torch.randn([missing, self._frames.shape[1]], generator=self._generator)
            self._frames = torch.cat((self._frames, drawn))
        self._frames = self._frames[lo - self._first :].clone()
        self._first = lo
        return self._frames[: hi - lo]
