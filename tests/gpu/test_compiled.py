"""Compiled layers give the codes and the mel of plain ones, which are transformers': alone, in company, at any shape.

And all that is compiled is compiled before a node serves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_graph.payload import Array
from omni_graph.testing import NodeRun, run_node
from omni_nodes.payloads import Codes, Mel
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.gpu.test_parity_on_a_device import CODES, GREEDY, TEXTS, codes_of
from tests.nodes.qwen2_5_omni.prompts import TOKENS, segments, talker_inputs, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference

# whatever the number of layers. Talker: the four parts of a layer around its attention, for one row and for many. DiT:
# layers that see each block by itself, with a mask and without, and those that see others
GRAPHS = {"talker": 8, "dit": 3}
LENGTHS = (61, 1, 12, 40, 13)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Past its limit of 8 the compiler would leave the rest as it is, and say nothing; here it raises."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def graphs() -> int:
    """How many were compiled."""
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return count


def test_a_compiled_talker_says_transformers_codes(tiny_folder: Path, device: str, reference: Reference) -> None:
    inputs = {text: text_inputs(reference, text) for text in TEXTS}
    thinker = Thinker(str(tiny_folder), dtype="float32", device=device)
    heard = {text: talker_inputs(thinker, segments(reference, one), TOKENS) for text, one in inputs.items()}
    talker = Talker(str(tiny_folder), dtype="float32", device=device, compile=True)
    assert 0 < graphs() <= GRAPHS["talker"]
    warm = graphs()
    company = run_node(talker, heard, dict.fromkeys(heard, GREEDY))
    for text, one in inputs.items():
        codes = reference.generate(one, max_tokens=TOKENS, talker_max_tokens=CODES).codes
        assert codes_of(company[text]["codes"]) == codes
        assert codes_of(run_node(talker, {text: heard[text]}, {text: GREEDY})[text]["codes"]) == codes
    assert graphs() == warm
    assert not any(Talker(str(tiny_folder), device=device, compile=True).counters().values())


def codes_to_speak() -> dict[int, list[int]]:
    return {n: np.random.default_rng(n).integers(0, 99, n).tolist() for n in LENGTHS}


def said(ids: list[int]) -> Mapping[str, list[Codes]]:
    return {"codes": [Codes(Array.of(np.array(ids, "int64")[:, None]), "Ethan")]}


def mel_of(sent: list[Mel]) -> np.ndarray:
    return np.concatenate([packet.frames.values for packet in sent])


@pytest.mark.parametrize("mode", ["exact", "low_latency", "balanced"])
def test_a_compiled_dit_is_transformers(tiny_folder: Path, device: str, mode: str) -> None:
    """Windows of many lengths that share evaluations, in batches that change as requests join and end."""
    node = CodecDiT(str(tiny_folder), mode, max_blocks=72, device=device, compile=True)
    assert 0 < graphs() <= GRAPHS["dit"]
    warm, rng = graphs(), random.Random(mode)
    run = NodeRun(node, rng=rng)
    for n, ids in codes_to_speak().items():
        run.open(str(n), said(ids), seed=7)
        for _ in range(rng.randrange(60)):
            run.move()
    run.run()
    token2wav = Token2WavReference(tiny_folder)
    for n, ids in codes_to_speak().items():
        windows = [] if mode == "exact" else token2wav.chunked_mel(ids, "Ethan", 7, mode)
        expected = (
            np.concatenate([one.frames for one in windows]) if windows else token2wav.exact_mel(ids, "Ethan", seed=7)
        )
        np.testing.assert_allclose(mel_of(run.outputs[str(n)]["mel"]), expected, atol=1e-4, rtol=0)
    assert graphs() == warm
