"""What a request may ask of sampling, as one checked value. Imports no torch, so that node modules may use it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Temperature 0 is greedy; top_k 0 and top_p 1 are off. Raises ValueError naming the value and what is allowed."""

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 (greedy) or more, finite")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "more than 0, at most 1 (off)")
        _require(
            0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "more than 0, finite"
        )


def _require(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; allowed: {allowed}")
