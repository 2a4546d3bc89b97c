"""The graph in bfloat16: no token is promised, but an answer is whole, and the next turn finds what the first one left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from omni_graph.payload import Array
from omni_graph.runtime.app import App, Result
from omni_graph.testing import run_node
from omni_nodes.payloads import Codes, Mel
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from tests.nodes.qwen2_5_omni.apps import DTYPED, codes_of, frames, greedy, in_dtype, launch, picture, samples_of, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user, video
from tests.nodes.qwen2_5_omni.test_packed import layers_of
from tests.nodes.qwen2_5_omni.token2wav_reference import Token2WavReference, snr_db
from tests.runtime.graphs import eventually

TOKENS, CODES = 10, 40
SAMPLES_A_CODE = 480
FIRST = [user(image(picture(70, 90)), audio(tone(2.5)), video(frames(4, 56, 84)), "what is this?")]
HITS = {"audio_encoder": "cache_hits", "vision_encoder": "cache_hits"}


def dtypes_of(app: App, stage: str) -> set[torch.dtype]:
    """Of the parameters of a stage."""
    node = app._deployment.handles[f"{stage}/0.0"]._worker.core._nodes[stage].node  # type: ignore[attr-defined]
    return {parameter.dtype for layer in layers_of(node) for parameter in layer.parameters()}


def check_answer(result: Result) -> None:
    """As long as asked, and sound all along."""
    samples = samples_of(result)
    assert len(result["text"].token_ids) == TOKENS
    assert len(codes_of(result)) == CODES
    assert samples.shape == (CODES * SAMPLES_A_CODE,) and samples.dtype == np.float32
    assert np.isfinite(samples).all() and samples.std() > 0


def check_session(app: App, dtype: torch.dtype) -> None:
    """Two turns with pictures, sound and a video, by stages that compute in ``dtype``."""
    assert [dtypes_of(app, stage) for stage in DTYPED] == [{dtype}] * 4
    assert [dtypes_of(app, stage) for stage in ("codec_dit", "bigvgan")] == [{torch.float32}] * 2
    first = app.run({"conversation": FIRST}, params=greedy(TOKENS, CODES))
    check_answer(first)
    said = {"role": "assistant", "content": first["text"].text}
    check_answer(app.run({"conversation": [*FIRST, said, user("and now?")]}, params=greedy(TOKENS, CODES)))
    eventually(lambda: all(hits(app, stage) > 0 for stage in DTYPED))


def hits(app: App, stage: str) -> int:
    counters: dict[str, int] = app.status()["stages"][stage]["replicas"][0]["counters"]
    return counters[f"{stage}.{HITS.get(stage, 'prefix_rows_hit')}"]


@pytest.mark.slow  # many threads in one process: torch's bfloat16 on a CPU with AMX may end it (pytorch issue 187912)
def test_a_session_in_bfloat16(tiny_folder: Path) -> None:
    with launch(tiny_folder, settings=in_dtype("bfloat16")) as app:
        check_session(app, torch.bfloat16)


# ---- token2wav, where it is told to


def test_mel_in_bfloat16_stays_near(tiny_folder: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 99, 61)
    sent = {"codes": [Codes(Array.of(codes[:, None].astype("int64")), "Chelsie")]}
    node = CodecDiT(str(tiny_folder), "exact", dtype="bfloat16")
    mel = np.concatenate([one.frames.values for one in run_node(node, {"r": sent}, seed=3)["r"]["mel"]])
    expected = Token2WavReference(tiny_folder).exact_mel(codes.tolist(), "Chelsie", seed=3)
    assert mel.dtype == np.float32 and np.isfinite(mel).all()
    assert 20 < snr_db(expected, mel) < 80  # it was computed in bfloat16, and is near


def test_sound_in_bfloat16_stays_near(tiny_folder: Path) -> None:
    mel = np.random.default_rng(0).standard_normal((90, 80), "float32") - 3
    node = BigVGAN(str(tiny_folder), dtype="bfloat16")
    sent = run_node(node, {"r": {"mel": [Mel(Array.of(mel), Array.of(mel[:0]), 45)]}})["r"]["audio"]
    sound = np.concatenate([chunk.samples.values for chunk in sent])
    assert sound.dtype == np.float32 and np.isfinite(sound).all()
    assert 20 < snr_db(Token2WavReference(tiny_folder).sound(torch.from_numpy(mel)), sound) < 80
