"""The oracle itself: each of its mends is still needed, and does what it says.

A test here that fails after an upgrade of transformers is good news: the bug is gone, so delete its mend.
"""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import Qwen2_5OmniForConditionalGeneration

from tests.nodes.qwen2_5_omni.reference import MENDED, Reference, suppress_codes_without_embedding

HELLO = [{"role": "user", "content": "hello"}]
FRAME = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}


@pytest.fixture
def plain(tiny_folder: Path) -> Qwen2_5OmniForConditionalGeneration:
    """transformers' model, nothing mended."""
    return Qwen2_5OmniForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """3.3 s of a rising tone at 16 kHz, float32."""
    time = np.arange(int(16000 * 3.3)) / 16000
    return (0.3 * np.sin(2 * np.pi * (200 + 80 * time) * time)).astype(np.float32)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """8 frames at 2 a second."""
    return np.random.default_rng(1).integers(0, 255, (8, 56, 84, 3), dtype=np.uint8)


def greedy(model: Any, inputs: dict[str, Any], **more: Any) -> Any:
    """generate() as anyone would call it, with the tiny checkpoint's own end codes."""
    options = {"thinker_max_new_tokens": 8, "talker_max_new_tokens": 48, "talker_do_sample": False}
    return model.generate(**inputs, **{**options, "talker_eos_token_id": [108, 110], **more})


def rope_calls(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the ids for which the Talker asks for TMRoPE positions."""
    calls: list[tuple[int, ...]] = []
    original = model.talker.get_rope_index
    monkeypatch.setattr(
        model.talker, "get_rope_index", lambda ids, *rest: (calls.append(tuple(ids.shape)), original(ids, *rest))[1]
    )
    return calls


def test_the_mends_are_for_this_transformers() -> None:
    assert transformers.__version__.startswith(MENDED)


def test_upstream_the_talker_drops_the_mask_and_with_it_positions_and_marks(
    plain: Qwen2_5OmniForConditionalGeneration, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = reference.inputs(HELLO)
    suppress_codes_without_embedding(plain)
    unmended, mended = rope_calls(plain, monkeypatch), rope_calls(reference.model, monkeypatch)
    greedy(plain, inputs)
    reference.generate(inputs, max_tokens=8, talker_max_tokens=4)
    assert unmended == []
    assert mended == [(1, inputs["input_ids"].shape[1] + 2)]


def test_a_padded_prompt_which_upstream_gets_right_equals_the_mended_one(
    plain: Qwen2_5OmniForConditionalGeneration, reference: Reference
) -> None:
    """Left padding keeps the mask: the same request, padded, gives the codes that ours gives without padding."""
    suppress_codes_without_embedding(plain)
    inputs = reference.inputs(HELLO)
    pad = reference.processor.tokenizer.pad_token_id
    padded = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (3, 0), value=pad),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=0),
    }
    codes: list[int] = []
    plain.token2wav.register_forward_pre_hook(lambda _, args: codes.extend(args[0][0].tolist()))
    greedy(plain, padded)
    assert tuple(codes) == reference.generate(inputs, max_tokens=8, talker_max_tokens=48).codes


@pytest.mark.parametrize("kind", ["image", "video"])
def test_upstream_pictures_and_speech_exclude_each_other(
    kind: str,
    plain: Qwen2_5OmniForConditionalGeneration,
    reference: Reference,
    image: Image.Image,
    video: np.ndarray,
) -> None:
    media: dict[str, Any] = {"images": [image]} if kind == "image" else {"videos": [video], "video_size": FRAME}
    inputs = reference.inputs([{"role": "user", "content": [{"type": kind, kind: "x"}]}], **media)
    with pytest.raises(ValueError, match=r"model_kwargs.*not used by the model.*pixel_values"):
        greedy(plain, inputs)
    assert reference.generate(inputs, talker_max_tokens=4).codes


def test_upstream_a_code_without_embedding_crashes(
    plain: Qwen2_5OmniForConditionalGeneration, reference: Reference
) -> None:
    inputs = reference.inputs(HELLO)
    with pytest.raises(IndexError):
        greedy(plain, inputs)
    suppress_codes_without_embedding(plain)
    greedy(plain, inputs)


def test_upstream_the_end_codes_are_fixed(reference: Reference) -> None:
    signature = inspect.signature(Qwen2_5OmniForConditionalGeneration.generate)
    assert signature.parameters["talker_eos_token_id"].default == [8292, 8294]
    assert reference.talker_eos == [108, 110]


def test_upstream_a_reply_of_one_token_crashes(stopping_reference: Reference) -> None:
    """Ours gives the text, and speech of 0 samples."""
    inputs = stopping_reference.inputs([{"role": "user", "content": "What?"}])
    answer = stopping_reference.generate(inputs, speech=False)
    assert answer.token_ids == (stopping_reference.model.thinker.config.eos_token_id,)
    with pytest.raises((RuntimeError, ValueError), match="non-empty list of Tensors"):
        stopping_reference.generate(inputs)


def test_upstream_speech_of_no_code_crashes(reference: Reference) -> None:
    """Ours gives 0 samples."""
    inputs = reference.inputs(HELLO)
    first = reference.generate(inputs, talker_max_tokens=2).codes[0]
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        greedy(reference.model, inputs, talker_eos_token_id=[first])


def test_the_same_seed_gives_the_same_sound_and_leaves_the_global_generator(reference: Reference) -> None:
    before = torch.random.get_rng_state()
    one, again, other = (reference.run(HELLO, talker_max_tokens=30, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.codes == again.codes == other.codes
    assert np.array_equal(one.waveform, again.waveform)
    assert not np.allclose(one.waveform, other.waveform, atol=1e-3)
    assert one.waveform.shape == (480 * 30,)


def test_the_sound_is_the_codec_applied_to_the_codes_with_the_noise_of_the_seed(reference: Reference) -> None:
    answer = reference.run(HELLO, talker_max_tokens=30, seed=5, voice="Ethan")
    speaker, token2wav = reference.model.speaker_map["Ethan"], reference.model.token2wav
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        waveform = token2wav(torch.tensor([answer.codes]), speaker["cond"], speaker["ref_mel"])
    assert np.array_equal(answer.waveform, waveform.numpy())


def test_voices_differ(reference: Reference) -> None:
    chelsie, ethan = (reference.run(HELLO, talker_max_tokens=20, voice=voice) for voice in ("Chelsie", "Ethan"))
    assert chelsie.token_ids == ethan.token_ids
    assert chelsie.codes != ethan.codes


def test_codes_have_an_embedding(odd_reference: Reference) -> None:
    answer = odd_reference.run(HELLO, talker_max_tokens=60)
    assert max(answer.codes) < 100


def test_every_modality_changes_the_answer(
    reference: Reference, sound: np.ndarray, image: Image.Image, video: np.ndarray
) -> None:
    def ask(*kinds: str, **media: Any) -> tuple[int, ...]:
        parts = [{"type": kind, kind: "x"} for kind in kinds]
        answer = reference.run([{"role": "user", "content": parts}], video_size=FRAME, talker_max_tokens=4, **media)
        assert len(answer.codes) == 4
        return answer.token_ids

    answers = {
        ask("audio", audio=[sound]),
        ask("audio", audio=[sound[::-1].copy()]),
        ask("image", images=[image]),
        ask("video", videos=[video]),
        ask("video", videos=[video], audio=[sound], audio_in_video=True),
        ask("audio", "image", "video", audio=[sound], images=[image], videos=[video]),
    }
    assert len(answers) == 6


def test_sound_in_video_is_interleaved(reference: Reference, sound: np.ndarray, video: np.ndarray) -> None:
    messages = [{"role": "user", "content": [{"type": "video", "video": "x"}]}]
    inputs = reference.inputs(messages, videos=[video], audio=[sound], audio_in_video=True, video_size=FRAME)
    ids, config = inputs["input_ids"][0].tolist(), reference.model.thinker.config
    media = [token for token in ids if token in (config.audio_token_id, config.video_token_id)]
    runs = [(token, len(list(group))) for token, group in itertools.groupby(media)]
    assert [token for token, _ in runs] == [config.video_token_id, config.audio_token_id] * 2
    assert [count for _, count in runs][1] == 50  # two seconds of sound
    assert inputs["use_audio_in_video"] is True
