"""Compiled layers give the codes and the mel of plain ones, which are transformers': alone, in company, at any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni_graph.payload import Array
from omni_graph.testing import run_node
from omni_nodes.payloads import Codes
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from tests.gpu.test_parity_on_a_device import CODES, GREEDY, TEXTS, codes_of
from tests.nodes.qwen2_5_omni.prompts import TOKENS, segments, talker_inputs, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference

GRAPHS = {"talker": 12, "dit": 12}  # compiled at most, whatever the layers: one code, a few kinds of shapes


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs() -> int:
    """How many were compiled."""
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return count


def test_a_compiled_talker_says_transformers_codes(tiny_folder: Path, device: str, reference: Reference) -> None:
    inputs = {text: text_inputs(reference, text) for text in TEXTS}
    thinker = Thinker(str(tiny_folder), dtype="float32", device=device)
    heard = {text: talker_inputs(thinker, segments(reference, one), TOKENS) for text, one in inputs.items()}
    talker = Talker(str(tiny_folder), dtype="float32", device=device, compile=True)
    company = run_node(talker, heard, dict.fromkeys(heard, GREEDY))
    for text, one in inputs.items():
        codes = reference.generate(one, max_tokens=TOKENS, talker_max_tokens=CODES).codes
        assert codes_of(company[text]["codes"]) == codes
        assert codes_of(run_node(talker, {text: heard[text]}, {text: GREEDY})[text]["codes"]) == codes
    assert 0 < graphs() <= GRAPHS["talker"]


@pytest.mark.parametrize("lengths", [(61,), (1, 12, 61)])
def test_a_compiled_dit_is_transformers(tiny_folder: Path, device: str, lengths: tuple[int, ...]) -> None:
    token2wav = Token2WavReference(tiny_folder)
    node = CodecDiT(str(tiny_folder), "exact", device=device, compile=True)
    codes = {str(n): np.random.default_rng(n).integers(0, 99, n).tolist() for n in lengths}
    inputs = {r: {"codes": [Codes(Array.of(np.array(ids, "int64")[:, None]), "Ethan")]} for r, ids in codes.items()}
    sent = run_node(node, inputs, seed=7)
    for request, ids in codes.items():
        mel = np.concatenate([packet.frames.values for packet in sent[request]["mel"]])
        np.testing.assert_allclose(mel, token2wav.exact_mel(ids, "Ethan", seed=7), atol=1e-4, rtol=0)
    assert 0 < graphs() <= GRAPHS["dit"]
