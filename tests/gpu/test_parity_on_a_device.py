"""Every stage of Qwen2.5-Omni on a device is what transformers computes on the CPU, alone and in company."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omni_graph.payload import Array, TextDelta
from omni_graph.testing import run_node
from omni_nodes.payloads import Codes, Mel, PromptSegment
from omni_nodes.qwen2_5_omni import weights
from omni_nodes.qwen2_5_omni.audio_encoder_model import AudioEncoderModel
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from omni_nodes.qwen2_5_omni.vision_encoder_model import VisionEncoderModel
from tests.nodes.qwen2_5_omni.prompts import TOKENS, media_inputs, segments, talker_inputs, text_inputs
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference

CODES = 40
TEXTS = ("hello", "describe the audio, please", "the quick brown fox jumps over the lazy dog " * 4)
GREEDY = {"temperature": 0.0, "max_tokens": CODES}


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path, device: str) -> Thinker:
    return Thinker(str(tiny_folder), dtype="float32", device=device)


@pytest.fixture(scope="module")
def talker(tiny_folder: Path, device: str) -> Talker:
    return Talker(str(tiny_folder), dtype="float32", device=device)


@pytest.fixture(scope="module")
def token2wav(tiny_folder: Path) -> Token2WavReference:
    return Token2WavReference(tiny_folder)


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> dict[str, Mapping[str, Any]]:
    """Three texts, and a text with sound and a picture."""
    inputs = {text: text_inputs(reference, text) for text in TEXTS}
    return {**inputs, "media": media_inputs(reference)}


def replies(
    thinker: Thinker, prompts: Mapping[str, Sequence[PromptSegment]], **params: Any
) -> dict[str, tuple[int, ...]]:
    sent = run_node(
        thinker, {name: {"prompt": prompt} for name, prompt in prompts.items()}, dict.fromkeys(prompts, params)
    )
    return {name: TextDelta.merge(ports["text"]).token_ids for name, ports in sent.items()}


def codes_of(packets: Sequence[Codes]) -> tuple[int, ...]:
    return tuple(int(packet.values.values[0, 0]) for packet in packets)


def test_tokens_and_codes_are_transformers_in_one_batch(
    thinker: Thinker, talker: Talker, reference: Reference, prompts: dict[str, Mapping[str, Any]]
) -> None:
    cut = {name: segments(reference, inputs) for name, inputs in prompts.items()}
    expected = {
        name: reference.generate(inputs, max_tokens=TOKENS, talker_max_tokens=CODES) for name, inputs in prompts.items()
    }
    assert replies(thinker, cut, max_tokens=TOKENS) == {name: answer.token_ids for name, answer in expected.items()}
    heard = {name: talker_inputs(thinker, prompt, TOKENS) for name, prompt in cut.items()}
    spoken = run_node(talker, heard, dict.fromkeys(heard, GREEDY))
    assert {name: codes_of(ports["codes"]) for name, ports in spoken.items()} == {
        name: answer.codes for name, answer in expected.items()
    }


def test_sampled_tokens_are_the_same_in_company(
    thinker: Thinker, reference: Reference, prompts: dict[str, Mapping[str, Any]]
) -> None:
    cut = {name: segments(reference, inputs) for name, inputs in prompts.items()}
    params = {"max_tokens": TOKENS, "temperature": 1.2, "top_k": 30, "top_p": 0.9}
    alone = {name: replies(thinker, {name: prompt}, **params)[name] for name, prompt in cut.items()}
    assert replies(thinker, cut, **params) == alone


def test_half_precision_stays_near(
    tiny_folder: Path, device: str, thinker: Thinker, reference: Reference, prompts: dict[str, Mapping[str, Any]]
) -> None:
    """bfloat16 has 8 bits: states of a prompt differ by hundredths of their size, and no token is promised."""
    cut = segments(reference, prompts[TEXTS[2]])
    half = Thinker(str(tiny_folder), dtype="bfloat16", device=device)
    full, rough = (prompt_states(node, cut) for node in (thinker, half))
    assert 0 < float((full - rough).norm() / full.norm()) < 0.05


def prompt_states(thinker: Thinker, prompt: Sequence[PromptSegment]) -> torch.Tensor:
    (packet,) = talker_inputs(thinker, prompt, 2)["prompt"]
    values = torch.from_numpy(packet.states.values.copy())
    return values.view(torch.bfloat16).float() if packet.states.dtype == "bfloat16" else values


def test_sound_encodes_as_the_whole_clip(tiny_folder: Path, device: str, reference: Reference) -> None:
    mel = np.random.default_rng(0).standard_normal((128, 457), "float32")
    tower = reference.model.thinker.model.audio_tower
    expected = tower(torch.from_numpy(mel), feature_lens=torch.tensor([457])).last_hidden_state
    model = AudioEncoderModel(weights.load_audio_encoder(open_checkpoint(str(tiny_folder)), device))
    rows = model.encode([Array.of(mel[:, start : start + 200]) for start in range(0, 457, 200)])
    np.testing.assert_allclose(np.concatenate([row.values for row in rows]), expected, atol=1e-4, rtol=0)


def test_pictures_encode_together_as_apart(tiny_folder: Path, device: str, reference: Reference) -> None:
    grids = [(1, 8, 12), (1, 4, 6)]
    pixels = [np.random.default_rng(n).standard_normal((h * w, 1176), "float32") for n, (_, h, w) in enumerate(grids)]
    tower = reference.model.thinker.model.visual
    model = VisionEncoderModel(weights.load_vision_encoder(open_checkpoint(str(tiny_folder)), device))
    rows = model.encode([(grid, [Array.of(one)]) for grid, one in zip(grids, pixels)])
    for row, grid, one in zip(rows, grids, pixels, strict=True):
        expected = tower(torch.from_numpy(one), grid_thw=torch.tensor([grid])).pooler_output
        np.testing.assert_allclose(row.values, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lengths", [(13,), (1, 12, 61)])
def test_mel_is_transformers(
    tiny_folder: Path, device: str, token2wav: Token2WavReference, lengths: tuple[int, ...]
) -> None:
    node = CodecDiT(str(tiny_folder), "exact", device=device)
    codes = {str(n): np.random.default_rng(n).integers(0, 99, n).tolist() for n in lengths}
    inputs = {r: {"codes": [Codes(Array.of(np.array(ids, "int64")[:, None]), "Ethan")]} for r, ids in codes.items()}
    sent = run_node(node, inputs, seed=7)
    for request, ids in codes.items():
        mel = np.concatenate([packet.frames.values for packet in sent[request]["mel"]])
        np.testing.assert_allclose(mel, token2wav.exact_mel(ids, "Ethan", seed=7), atol=1e-4, rtol=0)


def test_sound_is_transformers(tiny_folder: Path, device: str, token2wav: Token2WavReference) -> None:
    mels = {f"r{n}": np.random.default_rng(n).standard_normal((90, 80), "float32") - 3 for n in range(3)}
    cut = {
        request: {"mel": [Mel(Array.of(mel[at : at + 30]), Array.of(mel[:0]), 15) for at in range(0, 90, 30)]}
        for request, mel in mels.items()
    }
    sent = run_node(BigVGAN(str(tiny_folder), device=device), cut)
    for request, mel in mels.items():
        heard = np.concatenate([chunk.samples.values for chunk in sent[request]["audio"]])
        np.testing.assert_allclose(heard, token2wav.sound(torch.from_numpy(mel)), atol=1e-4, rtol=0)
