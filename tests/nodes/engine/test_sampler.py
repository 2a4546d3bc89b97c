"""Sampling: each step against transformers' processors, noise that depends on nothing but its key, and the right law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from omni_graph.errors import Code, RequestError
from omni_nodes.engine import gumbel as noise
from omni_nodes.engine.sampler import NOT_FINITE, TIES, Sampler, draw, kept, penalise
from omni_nodes.engine.sampling import SamplingParams

VOCABULARY = 50
GOLDEN = [3_489_901_769, 171_523_410, 56_333_645]  # from a second implementation, in Python integers


def logits_of(seed: int, size: int = VOCABULARY) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def mask_of(ids: list[int], size: int = VOCABULARY) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[ids] = True
    return mask


def sample(
    logits: torch.Tensor,
    params: SamplingParams,
    position: int = 0,
    seen: torch.Tensor | None = None,
    suppressed: torch.Tensor | None = None,
) -> int:
    return draw([Sampler("r1", "n", params, seen, suppressed, position)], logits[None])[0]


def gumbel(ids: torch.Tensor, seed: int, node: str, position: int) -> torch.Tensor:
    return noise.gumbel(ids[None], [noise.noise_key(seed, node, position)])[0]


def next_token(sampler: Sampler, logits: torch.Tensor) -> int:
    return sampler.choose(draw([sampler], logits[None])[0])


@given(st.integers(0, 99), st.lists(st.integers(0, VOCABULARY - 1), max_size=20), st.floats(0.5, 2.0))
def test_penalty_equals_transformers(seed: int, ids: list[int], penalty: float) -> None:
    scores = logits_of(seed)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids], dtype=torch.long), scores[None].clone())
    assert torch.equal(penalise(scores[None], mask_of(ids)[None], penalty), theirs)


@given(st.integers(0, 99), st.integers(1, 60), st.floats(0.05, 0.99))
def test_kept_ids_equal_transformers(seed: int, top_k: int, top_p: float) -> None:
    scores = logits_of(seed)
    theirs = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, scores[None]))[0]
    ids, values = only_kept(scores, top_k, top_p)
    assert sorted(ids.tolist()) == torch.isfinite(theirs).nonzero()[:, 0].tolist()
    assert torch.equal(scores[ids], values)


def only_kept(scores: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids (m,) of one row that stay, and their scores."""
    (ids,), (values,) = kept(scores[None], top_k, top_p)
    stay = values > -torch.inf
    return ids[stay], values[stay]


def test_ties_at_the_kth_place_all_stay() -> None:
    ids, _ = only_kept(torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0]), 2, 1.0)
    assert ids.tolist() == [1, 2, 3]


def test_ties_in_another_row_change_nothing() -> None:
    rows = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    ids, values = kept(rows, 2, 1.0)
    stay = values > -torch.inf
    assert [row[there].tolist() for row, there in zip(ids, stay)] == [[1, 2, 3], [0, 1]]


def test_ties_in_another_row_do_not_move_the_edge_of_top_p() -> None:
    """Also where ``top_p`` is, to the bit, what the more probable ones sum to."""
    with_ties = torch.zeros(VOCABULARY)
    for seed in range(50):
        scores = logits_of(seed)
        probabilities = only_kept(scores, 5, 1.0)[1].sort(descending=True).values.softmax(-1)
        for top_p in (probabilities.cumsum(-1) - probabilities)[1:].tolist():
            ids, values = kept(torch.stack([scores, with_ties]), 5, top_p)
            assert torch.equal(ids[0][values[0] > -torch.inf], only_kept(scores, 5, top_p)[0]), (seed, top_p)


def test_fewer_ids_than_top_k_leave_those_there_are() -> None:
    ids, values = only_kept(torch.tensor([-torch.inf, 3.0, -torch.inf, 2.0]), 3, 0.99)
    assert (ids.tolist(), values.tolist()) == ([1, 3], [3.0, 2.0])


def test_greedy_is_argmax_after_penalty_and_suppression() -> None:
    logits = torch.tensor([4.0, 3.9, 3.0, 2.0])
    params = SamplingParams(8, repetition_penalty=2.0)
    assert sample(logits, SamplingParams(8)) == 0
    assert sample(logits, params, seen=mask_of([0], 4)) == 1
    assert sample(logits, params, seen=mask_of([0], 4), suppressed=mask_of([1], 4)) == 2


def test_suppressed_ids_never_come() -> None:
    params = SamplingParams(8, temperature=5.0, top_k=3, seed=1)
    suppressed = mask_of(list(range(10, VOCABULARY)))
    drawn = {sample(logits_of(0), params, position=i, suppressed=suppressed) for i in range(200)}
    assert drawn <= set(range(10))
    assert len(drawn) == 3


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 0.9), (1.5, 8, 0.95)])
def test_frequencies_follow_the_softmax_of_what_is_kept(temperature: float, top_k: int, top_p: float) -> None:
    draws = 4000
    scores = logits_of(3, 20) / 2
    params = SamplingParams(8, temperature, top_k, top_p, seed=11)
    ids, values = only_kept(scores / temperature, top_k, top_p)
    expected = torch.zeros(20).index_put((ids,), values.softmax(-1) * draws)
    counts = torch.zeros(20)
    for position in range(draws):
        counts[sample(scores, params, position=position)] += 1
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected)[ids] ** 2 / expected[ids]).sum()
    freedom = len(ids) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations; the seed is fixed


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.lists(st.integers(0, 200_000), min_size=1, max_size=20))
def test_noise_of_an_id_does_not_depend_on_the_others(seed: int, position: int, ids: list[int]) -> None:
    together = gumbel(torch.tensor(ids), seed, "n", position)
    alone = [gumbel(torch.tensor([id]), seed, "n", position)[0] for id in ids]
    assert torch.isfinite(together).all()
    assert torch.equal(together, torch.stack(alone))


def test_noise_changes_with_every_part_of_its_key() -> None:
    ids = torch.arange(100)
    one = gumbel(ids, 1, "a", 0)
    for other in (gumbel(ids, 2, "a", 0), gumbel(ids, 1, "b", 0), gumbel(ids, 1, "a", 1), gumbel(ids + 100, 1, "a", 0)):
        assert not (one == other).any()


def test_noise_is_standard_gumbel() -> None:
    noise = torch.cat([gumbel(torch.arange(2000), 5, "n", position) for position in range(20)])
    assert abs(float(noise.mean()) - 0.5772) < 0.02
    assert abs(float(noise.var()) - torch.pi**2 / 6) < 0.04


def test_noise_is_the_same_for_ever() -> None:
    """A reply must repeat on another machine and in a later release: these values are part of the format."""
    uniform = torch.exp(-torch.exp(-gumbel(torch.tensor([0, 1, 151_643]), 42, "thinker", 7)))
    integers = (uniform * 2**32).long().tolist()
    assert integers == GOLDEN


def test_logits_that_are_not_finite_fail_the_request() -> None:
    sampler = Sampler("r1", "n", SamplingParams(8))
    with pytest.raises(RequestError, match="token 0") as caught:
        next_token(sampler, torch.tensor([0.0, float("nan")]))
    assert (caught.value.request, caught.value.code) == ("r1", Code.NUMERIC)


RULES = st.builds(
    SamplingParams,
    max_tokens=st.just(8),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 1, 5, VOCABULARY]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**64 - 1),
)
SUPPRESSED = (None, mask_of([3, 4]), mask_of(list(range(2, VOCABULARY))))


@settings(deadline=None)
@given(
    st.lists(st.tuples(RULES, st.booleans(), st.sampled_from([0, 1, 2]), st.integers(0, 99)), min_size=1, max_size=9)
)
def test_each_row_is_drawn_as_if_it_were_alone(rows: list[tuple[SamplingParams, bool, int, int]]) -> None:
    """Rows of any rules together; rounded to halves, so that there are ties."""
    samplers = [
        Sampler(f"r{n}", "n", params, mask_of([n, n + 9]) if seen else None, SUPPRESSED[suppressed], drawn=n)
        for n, (params, seen, suppressed, _) in enumerate(rows)
    ]
    logits = torch.stack([(logits_of(seed) * 2).round() / 2 for *_, seed in rows])
    logits[-1, 7] = float("nan")
    alone = [draw([sampler], row[None])[0] for sampler, row in zip(samplers, logits)]
    assert draw(samplers, logits) == alone
    assert alone[-1] == NOT_FINITE and all(0 <= token < VOCABULARY for token in alone[:-1])


class Reads(TorchDispatchMode):
    """How often the host waits for one number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", [(0.0,), (0.9, 40, 0.8, 1.05), (1.0, 3)])
def test_no_number_is_read_before_the_ids(rule: tuple[float, ...]) -> None:
    """On a device each read would wait for all that is under way."""
    params = SamplingParams(8, *rule)  # type: ignore[arg-type]
    samplers = [Sampler(f"r{n}", "n", params, mask_of([n], 500), drawn=n) for n in range(4)]
    logits = torch.stack([logits_of(n, 500) for n in range(4)])
    with Reads() as reads:
        assert len(draw(samplers, logits)) == 4
        assert reads.count == 0
        logits[0, 0].item()
        assert reads.count == 1


@pytest.mark.parametrize("top_p", [0.7, 1.0])
@pytest.mark.parametrize("step", [0.01, 0.1, 4.0, 1e9])
def test_however_many_tie_for_the_kth_place(step: float, top_p: float) -> None:
    """Scores rounded to multiples of ``step``: from few ties to nothing but ties. All that tie are in the draw."""
    size, top_k, seeds = 500, 40, range(12)
    logits = torch.stack([(logits_of(seed, size) / step).round() * step for seed in seeds])
    reach = logits >= logits.topk(top_k).values[:, -1:]
    assert bool((reach.sum(-1) > top_k + TIES).any()) == (step >= 4.0)
    drawn = draw([Sampler("r", "n", SamplingParams(8, 1.0, top_k, top_p, seed=s), drawn=s) for s in seeds], logits)
    for seed, scores in zip(seeds, logits.masked_fill(~reach, -torch.inf)):
        ids, values = only_kept(scores, 0, top_p)
        assert drawn[seed] == ids[(values.double() + gumbel(ids, seed, "n", seed)).argmax()]


def test_a_sampler_penalises_what_it_drew() -> None:
    sampler = Sampler("r1", "n", SamplingParams(8, repetition_penalty=2.0), seen=torch.zeros(3, dtype=torch.bool))
    assert [next_token(sampler, torch.tensor([4.0, 3.0, 1.9])) for _ in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_forced_draws_leave_the_ones_after_them_as_they_were(count: int) -> None:
    """The noise goes by position, the penalty by what was said, repeated or drawn; forced draws need no logits."""
    params = SamplingParams(20, 1.5, repetition_penalty=3.0, seed=7)
    once = Sampler("r1", "n", params, seen=torch.zeros(VOCABULARY, dtype=torch.bool))
    drawn = [next_token(once, logits_of(position)) for position in range(20)]
    again = Sampler("r1", "n", params, seen=torch.zeros(VOCABULARY, dtype=torch.bool))
    again.force([(token,) for token in drawn[:count]], VOCABULARY)
    repeated = [again.choose(None) for _ in range(count)]
    assert repeated + [next_token(again, logits_of(position)) for position in range(count, 20)] == drawn


def test_a_choice_of_several_ids_is_a_sampler_for_each_codebook() -> None:
    """Each draws its own noise by its name, and repeats its column of the choices."""

    def codebooks() -> list[Sampler]:
        return [Sampler("r1", f"talker.{q}", SamplingParams(8, 1.5, seed=3)) for q in range(3)]

    def frame(samplers: list[Sampler], position: int) -> tuple[int, ...]:
        ids = draw(samplers, logits_of(position).expand(len(samplers), -1))
        return tuple(sampler.choose(token) for sampler, token in zip(samplers, ids))

    once, again = codebooks(), codebooks()
    frames = [frame(once, position) for position in range(8)]
    for q, sampler in enumerate(again):
        sampler.force([(choice[q],) for choice in frames[:5]], VOCABULARY)
    assert [frame(again, position) for position in range(8)] == frames
    assert len(set(zip(*frames))) == 3  # from the same logits


@pytest.mark.parametrize("choice", [(), (1, 2), (-1,), (VOCABULARY,)])
def test_a_forced_draw_is_one_id_of_the_vocabulary(choice: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"choice 1 to repeat is .*; allowed: one id, 0 to 49") as caught:
        Sampler("r1", "n", SamplingParams(8)).force([(3,), choice], VOCABULARY)
    assert (caught.value.request, caught.value.code) == ("r1", Code.DIVERGED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
    ],
)
def test_params_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is .*; allowed:"):
        SamplingParams(**{"max_tokens": 8, name: value})
