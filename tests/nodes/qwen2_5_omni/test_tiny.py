"""Tiny checkpoints: the same seed gives the same bytes, a failed build leaves nothing, and transformers loads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omni_nodes.qwen2_5_omni import tiny, tiny_config
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from tests.nodes.qwen2_5_omni.reference import Reference


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_build_is_a_function_of_seed_and_shape(tiny_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    tiny.build_tiny(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tiny_folder)
    tiny.build_tiny(tmp_path / "other", seed=1)
    other = contents(tmp_path / "other")
    differing = {name for name, data in contents(tiny_folder).items() if other[name] != data}
    assert differing == {"model.safetensors", "spk_dict.pt"}


def test_a_build_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    tiny.build_tiny(tmp_path / "tiny")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_build_needs_no_torchvision(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.modules['torchvision'] = None; "
        f"from omni_nodes.qwen2_5_omni.tiny import build_tiny; build_tiny(Path({str(tmp_path / 'tiny')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "tiny" / "processor_config.json").is_file()


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tiny, "_save_as_transformers", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny.build_tiny(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(FileExistsError, match="built into a new folder"):
        tiny.build_tiny(tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"file": b"kept"}


def test_an_unknown_shape_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tiny checkpoint of shape 'even'; allowed: default, odd, stopping"):
        tiny.build_tiny(tmp_path / "tiny", shape="even")


@pytest.mark.parametrize("shape", ["tiny_folder", "odd_folder"])
def test_transformers_finds_every_tensor_and_no_more(shape: str, request: pytest.FixtureRequest) -> None:
    from transformers import PreTrainedModel, Qwen2_5OmniForConditionalGeneration

    folder = request.getfixturevalue(shape)
    load = PreTrainedModel.from_pretrained.__func__  # the class's own, which adds the speakers, breaks on loading info
    _, loading = load(Qwen2_5OmniForConditionalGeneration, folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not loading[kind], kind


def test_the_two_shapes_are_written_in_the_two_published_layouts(tiny_folder: Path, odd_folder: Path) -> None:
    default, odd = set(contents(tiny_folder)), set(contents(odd_folder))
    shared = {"config.json", "generation_config.json", "spk_dict.pt", "tokenizer.json", "tokenizer_config.json"}
    assert default - shared == {"model.safetensors", "processor_config.json", "chat_template.jinja"}
    shards = {name for name in odd if name.endswith(".safetensors")}
    assert odd - shared - shards == {
        "model.safetensors.index.json",
        "preprocessor_config.json",
        "chat_template.json",
    }
    assert len(shards) > 1
    assert "rope_scaling" in json.loads((odd_folder / "config.json").read_text())["talker_config"]


def test_the_default_keeps_the_published_constants(tiny_folder: Path) -> None:
    settings = open_checkpoint(str(tiny_folder)).settings
    assert settings.thinker.context_length == 32768
    vision = settings.vision
    assert (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size) == (14, 2, 2)
    assert settings.audio.block_frames == 200
    assert (settings.codec.block_size, settings.codec.repeats) == (24, 2)
    talker = settings.talker.decoder
    assert talker.heads * talker.head_dim != talker.hidden_size


def test_special_ids_lie_apart_as_published(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    settings = open_checkpoint(str(tiny_folder)).settings
    tokenizer = len(AutoTokenizer.from_pretrained(tiny_folder))
    talker = settings.talker
    texts = {talker.text_pad, talker.text_start, talker.text_end, *tiny_config.SPEAKER_BOS.values()}
    assert all(tokenizer <= token < settings.thinker.vocab_size for token in texts)
    codes = {talker.codec_pad, talker.codec_start, talker.codec_end, talker.codec_mask}
    assert all(settings.codec.codes <= code < talker.decoder.vocab_size for code in codes)


@pytest.mark.parametrize("text", ["hello", "Grüße, 世界 🎧", "a\n\tb", "<|im_start|>user", ""])
def test_every_text_survives_the_tokenizer(text: str, tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_roles_and_markers_are_single_tokens(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for word in ("user", "assistant", "<|im_start|>", "<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|audio_bos|>"):
        assert len(tokenizer(word)["input_ids"]) == 1, word


def test_the_template_marks_each_medium_and_adds_the_default_system_turn(reference: Reference) -> None:
    parts = [{"type": kind, kind: "x"} for kind in ("audio", "image", "video")]
    prompt = reference.prompt([{"role": "user", "content": [*parts, {"type": "text", "text": "hi"}]}])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|><|vision_bos|><|IMAGE|><|vision_eos|>"
        "<|vision_bos|><|VIDEO|><|vision_eos|>hi<|im_end|>\n<|im_start|>assistant\n"
    )
    prompt = reference.prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}])
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n")


@pytest.mark.parametrize("shape", ["reference", "odd_reference"])
def test_a_random_model_does_not_stop_and_says_different_things(shape: str, request: pytest.FixtureRequest) -> None:
    reference = request.getfixturevalue(shape)
    first = reference.run([{"role": "user", "content": "hello"}], max_tokens=24, talker_max_tokens=40)
    second = reference.run([{"role": "user", "content": "describe"}], max_tokens=24, talker_max_tokens=40)
    for answer in (first, second):
        assert len(answer.token_ids) == 24
        assert len(answer.codes) == 40
        assert len(set(answer.token_ids)) > 8
        assert len(set(answer.codes)) > 8
        assert 0.1 < abs(answer.waveform).max() < 0.99  # loud enough to show a bug, and not clamped
    assert first.token_ids != second.token_ids
    assert first.codes != second.codes


@pytest.mark.parametrize("text", ["hello", "describe this ", "Sing", "a b c d e f g"])
def test_the_stopping_shape_ends_its_text_and_its_speech(text: str, stopping_reference: Reference) -> None:
    answer = stopping_reference.run([{"role": "user", "content": text}], max_tokens=100, talker_max_tokens=300)
    assert 2 < len(answer.token_ids) < 100
    assert answer.token_ids[-1] == stopping_reference.model.thinker.config.eos_token_id
    assert 2 < len(answer.codes) < 300
