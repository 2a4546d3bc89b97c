"""From logits to token ids, all rows of a step at once: penalty, suppression, temperature, top-k, top-p, Gumbel-max; fp32.

A row's id depends on its own logits, parameters and position alone, whoever shares the step. The host reads once a step,
all ids together; once more only where very many tie for the k-th place.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from omni_graph.errors import Code, RequestError
from omni_nodes.engine.gumbel import gumbel, noise_key
from omni_nodes.engine.sampling import SamplingParams

NOT_FINITE = -1  # in the place of an id
CROWDED = -2  # likewise: more ids may tie for the k-th place than were looked at
TIES = 16  # so many are, beyond the k
WEIGHT_OF_BEST = 2.0**35  # sums of whole numbers up to this are exact in float64 for 2**18 ids


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

    def choose(self, proposed: int | None) -> int:
        """The next id: a forced one while there are any, then what ``draw`` ``proposed``. Raises RequestError where the
        logits were not finite."""
        token = self.forced.popleft() if self.forced else self._checked(proposed)
        self.drawn += 1
        if self.seen is not None:
            self.seen[token] = True
        return token

    def _checked(self, proposed: int | None) -> int:
        assert proposed is not None, f"{self.request}: token {self.drawn} is not forced and was not drawn"
        if proposed == NOT_FINITE:
            message = f"the logits of token {self.drawn} are not finite: the weights or an input overflowed"
            raise RequestError(self.request, Code.NUMERIC, message)
        return proposed

    @property
    def penalty(self) -> float:
        """1 is none."""
        return 1.0 if self.seen is None else self.params.repetition_penalty

    def alike(self) -> tuple[object, ...]:
        """Samplers with equal values here are one computation."""
        p = self.params
        rule = (p.temperature, p.top_k, p.top_p) if p.temperature else ()
        return (id(self.suppressed), self.penalty, *rule)


@torch.inference_mode()
def draw(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[int]:
    """The next id of each request from its row of ``logits`` (n, V), any float dtype; NOT_FINITE where the row is not.
    Changes no sampler. The order of steps is that of transformers' logits processors."""
    drawn = _draw(samplers, logits, TIES)
    crowded = [row for row, token in enumerate(drawn) if token == CROWDED]
    if crowded:
        again = _draw([samplers[row] for row in crowded], logits[crowded], logits.shape[1])
        for row, token in zip(crowded, again):
            drawn[row] = token
    return drawn


def _draw(samplers: Sequence[Sampler], logits: torch.Tensor, ties: int) -> list[int]:
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, sampler in enumerate(samplers):
        groups[sampler.alike()].append(row)
    ids = torch.full((len(samplers),), NOT_FINITE, device=logits.device)
    for rows in groups.values():
        part = logits if len(groups) == 1 else logits[rows]
        ids[rows] = _draw_alike([samplers[row] for row in rows], part.float(), ties)
    drawn: list[int] = torch.where(torch.isfinite(logits).all(-1), ids, NOT_FINITE).tolist()
    return drawn


def _draw_alike(samplers: Sequence[Sampler], scores: torch.Tensor, ties: int) -> torch.Tensor:
    params, suppressed = samplers[0].params, samplers[0].suppressed
    if samplers[0].penalty != 1.0:
        seen = torch.stack([sampler.seen for sampler in samplers if sampler.seen is not None])
        scores = penalise(scores, seen, params.repetition_penalty)
    if suppressed is not None:
        scores = scores.masked_fill(suppressed, -torch.inf)
    if params.temperature == 0.0:
        return scores.argmax(-1)
    ids, scores = kept(scores / params.temperature, params.top_k, params.top_p, ties)
    noise = gumbel(ids, [noise_key(s.params.seed, s.node, s.drawn) for s in samplers])
    best = (scores.double() + noise).argmax(-1, keepdim=True)
    return ids.gather(-1, best)[:, 0]


def penalise(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores (n, V) with the ids in ``seen`` made less likely (transformers' RepetitionPenaltyLogitsProcessor)."""
    less_likely = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(seen, less_likely, scores)


def kept(scores: torch.Tensor, top_k: int, top_p: float, ties: int = TIES) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids (n, m) int64 among which top-k, then top-p leave those with a score (n, m) above -inf.

    Ties at the k-th place all stay; in a row where they may be more than ``ties``, every id is CROWDED. An id stays under
    top-p when the more probable ones before it sum to less than ``top_p``; ties go by id. Probabilities are added up as
    whole numbers, so no sum depends on how many ids that are out stand in the row.
    """
    if 0 < top_k < scores.shape[1]:
        ids, scores = _largest(scores, top_k, ties)
    else:
        ids = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    if top_p == 1.0:
        return ids, scores
    scores, order = scores.sort(descending=True, stable=True)
    weights = ((scores - scores[:, :1]).exp().double() * WEIGHT_OF_BEST).round()
    sums = weights.cumsum(-1)
    outside = sums - weights >= top_p * sums[:, -1:]
    outside[:, 0] = False
    return ids.gather(-1, order), scores.masked_fill(outside, -torch.inf)


def _largest(scores: torch.Tensor, count: int, ties: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row and what ties with the last of them, by id; -inf in places left over. As wide for
    any scores, so that the host need not wait to know how many tie."""
    width = min(count + ties, scores.shape[1])
    values, ids = scores.topk(width)
    threshold = values[:, count - 1 : count]
    if width < scores.shape[1]:
        crowded = (values[:, -1:] == threshold) & (threshold > -torch.inf)
        ids = ids.masked_fill(crowded, CROWDED)
    values = values.masked_fill(values < threshold, -torch.inf)
    ids, order = ids.sort(-1)
    return ids, values.gather(-1, order)
