"""From one row of logits to one token id: penalty, suppression, temperature, top-k, top-p, Gumbel-max, all in fp32.

Never reads a random generator: the noise is a hash of (seed, node, position, token id), so a token
depends on its own logits alone, not on the batch, the device or what was drawn before.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from omni_graph.errors import Code, RequestError
from omni_nodes.engine.sampling import SamplingParams

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


@dataclass(slots=True)
class Sampler:
    """One request's draws at one node. ``seen`` (V,) bool are the ids under the repetition penalty, its own included, None
    where there is none; ``suppressed`` (V,) bool may never come. ``forced``: what is still to repeat of an earlier
    attempt."""

    request: str
    node: str
    params: SamplingParams
    seen: torch.Tensor | None = None
    suppressed: torch.Tensor | None = None
    drawn: int = 0
    forced: deque[int] = field(default_factory=deque)

    def force(self, choices: Sequence[tuple[int, ...]], vocabulary: int) -> None:
        """Repeat these first. Raises RequestError for one that is no id of the vocabulary."""
        for index, choice in enumerate(choices):
            if len(choice) != 1 or not 0 <= choice[0] < vocabulary:
                message = f"choice {index} to repeat is {choice}; allowed: one id, 0 to {vocabulary - 1}"
                raise RequestError(self.request, Code.DIVERGED, message)
            self.forced.append(choice[0])

    def draw(self, logits: torch.Tensor | None) -> int:
        """The next id: a forced one while there are any, then from ``logits`` (V,). Raises RequestError where those are not
        finite."""
        token = self.forced.popleft() if self.forced else self._sample(logits)
        self.drawn += 1
        if self.seen is not None:
            self.seen[token] = True
        return token

    def _sample(self, logits: torch.Tensor | None) -> int:
        assert logits is not None, f"{self.request}: token {self.drawn} is not forced and has no logits"
        if not torch.isfinite(logits).all():
            message = f"the logits of token {self.drawn} are not finite: the weights or an input overflowed"
            raise RequestError(self.request, Code.NUMERIC, message)
        return sample(
            logits, self.params, node=self.node, position=self.drawn, seen=self.seen, suppressed=self.suppressed
        )


def sample(
    logits: torch.Tensor,
    params: SamplingParams,
    *,
    node: str,
    position: int,
    seen: torch.Tensor | None = None,
    suppressed: torch.Tensor | None = None,
) -> int:
    """The next token id.

    ``logits`` (V,) any float dtype; ``seen`` (V,) bool, the ids under the repetition penalty; ``suppressed`` (V,) bool, the
    ids that may never come; ``node`` and ``position`` tell this draw from every other one of the request. The order is
    that of transformers' logits processors.
    """
    scores = logits.float()
    if seen is not None and params.repetition_penalty != 1.0:
        scores = penalise(scores, seen, params.repetition_penalty)
    if suppressed is not None:
        scores = scores.masked_fill(suppressed, -torch.inf)
    if params.temperature == 0.0:
        return int(scores.argmax())
    ids, scores = kept(scores / params.temperature, params.top_k, params.top_p)
    noise = gumbel(ids, params.seed, node, position)
    return int(ids[(scores.double() + noise).argmax()])


def penalise(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores (V,) with the ids in ``seen`` made less likely (transformers' RepetitionPenaltyLogitsProcessor)."""
    less_likely = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen, less_likely, scores)


def kept(scores: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids (n,) int64 that top-k, then top-p leave, and their scores (n,); ties at the k-th place all stay.

    An id stays under top-p when the more probable ones before it sum to less than ``top_p``; ties go by id.
    """
    if 0 < top_k < len(scores):
        threshold = scores.topk(top_k).values[-1]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    ids = torch.isfinite(scores).nonzero()[:, 0]
    scores = scores[ids]
    if top_p < 1.0:
        scores, order = scores.sort(descending=True, stable=True)
        probabilities = scores.softmax(-1)
        nucleus = probabilities.cumsum(-1) - probabilities < top_p
        nucleus[0] = True
        ids, scores = ids[order][nucleus], scores[nucleus]
    return ids, scores


def gumbel(ids: torch.Tensor, seed: int, node: str, position: int) -> torch.Tensor:
    """Standard Gumbel noise (n,) float64 for token ids (n,) int64: -log(-log u).

    ``u`` comes from the top 53 bits of output ``id`` of the splitmix64 generator (Steele, Lea, Flood 2014, OOPSLA) whose
    state is a splitmix64 hash of seed, node and position; integers only, so equal on every device.
    """
    state = _key(seed, node, position)
    bits = _finalise(ids * _signed(_GOLDEN) + _signed((state + _GOLDEN) & _MASK))
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


def _key(seed: int, node: str, position: int) -> int:
    tag = int.from_bytes(hashlib.blake2b(node.encode(), digest_size=8).digest(), "little")
    state = 0
    for part in (seed, tag, position):
        state = _finalise_int(((state ^ part) + _GOLDEN) & _MASK)
    return state


def _finalise_int(value: int) -> int:
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31


def _finalise(values: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser on int64 bit patterns; multiplication wraps."""
    values = (values ^ _shift(values, 30)) * _signed(_FIRST)
    values = (values ^ _shift(values, 27)) * _signed(_SECOND)
    return values ^ _shift(values, 31)


def _shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's own is arithmetic on int64."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
