"""On a device, in company: preempted, cancelled, found in the prefix cache and cut into small chunks, an answer stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.nodes.qwen2_5_omni.company import Company, codes_of, tokens_of
from tests.nodes.qwen2_5_omni.reference import Answer
from tests.nodes.qwen2_5_omni.test_company import (  # noqa: F401
    GREEDY,
    Prompts,
    answers,
    asked,
    check_disturbed,
    heard,
    nodes,
    prompts,
    three,
    voiced,
)

BATCH, CHUNK = 4, 7


@pytest.mark.parametrize("caches", [True, False])
def test_greedy_answers_equal_transformers_one_at_a_time(
    tiny_folder: Path,
    device: str,
    prompts: Prompts,  # noqa: F811
    answers: dict[str, Answer],  # noqa: F811
    caches: bool,
) -> None:
    rng = random.Random(BATCH)
    thinker, talker = nodes(tiny_folder, three(prompts), BATCH, CHUNK, caches=caches, device=device)
    thinking, talking = Company(thinker, rng), Company(talker, rng)
    for _ in range(1 + caches):
        inputs = {request: {"prompt": prompt} for request, prompt in prompts.items()}
        sent = thinking.play(inputs, dict.fromkeys(prompts, GREEDY["thinker"]))
        spoken = talking.play(heard(sent), voiced(prompts, GREEDY["talker"]))
        for request, answer in answers.items():
            assert tokens_of(sent[request]) == answer.token_ids, request
            assert codes_of(spoken[request]) == answer.codes, request
    for company in (thinking, talking):
        check_disturbed(company)
        assert (company.node.counters()["prefix_rows_hit"] > 0) == caches
