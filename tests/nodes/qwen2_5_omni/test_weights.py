"""Each stage's weights are those of the composite model, and a tensor that is not as expected never loads as noise."""

from __future__ import annotations

import gc
import inspect
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from omni_graph.errors import NodeError
from omni_nodes.qwen2_5_omni import weights
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.talker import Talker
from omni_nodes.qwen2_5_omni.thinker import Thinker
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder
from tests.nodes.qwen2_5_omni.reference import Reference

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage, with one weights file."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> Checkpoint:
    """Change the tensors of the folder's one file, and open it."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(str(folder))


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Equal parameters and buffers, names, dtypes and bits."""
    for of in (nn.Module.named_parameters, nn.Module.named_buffers):
        a, b = dict(of(ours)), dict(of(theirs))
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype, name
            assert torch.equal(a[name], b[name]), name
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("shape", ["reference", "odd_reference"])
def test_every_stage_equals_the_composite_model(shape: str, request: pytest.FixtureRequest) -> None:
    reference = request.getfixturevalue(shape)
    model, opened = reference.model, open_checkpoint(str(reference.folder))
    thinker, talker = weights.load_thinker(opened), weights.load_talker(opened)
    assert_same(weights.load_audio_encoder(opened), model.thinker.model.audio_tower)
    assert_same(weights.load_vision_encoder(opened), model.thinker.model.visual)
    assert_same(thinker.decoder, model.thinker.model.language_model)
    assert_same(thinker.lm_head, model.thinker.lm_head)
    assert_same(talker.decoder, model.talker.model)
    assert_same(talker.projection, model.talker.thinker_to_talker_proj)
    assert_same(talker.codec_head, model.talker.codec_head)
    assert talker.embedding is talker.decoder.embed_tokens
    assert_same(weights.load_codec_dit(opened), model.token2wav.code2wav_dit_model)
    assert_same(weights.load_bigvgan(opened), model.token2wav.code2wav_bigvgan_model)


def test_attention_is_scaled_dot_product(tiny_folder: Path) -> None:
    opened = open_checkpoint(str(tiny_folder))
    for module in (
        weights.load_audio_encoder(opened),
        weights.load_vision_encoder(opened),
        weights.load_thinker(opened).decoder,
        weights.load_talker(opened).decoder,
        weights.load_codec_dit(opened),
    ):
        assert module.config._attn_implementation == "sdpa"


def test_dtype_is_the_parameters_and_buffers_stay_float32(tiny_folder: Path) -> None:
    opened = open_checkpoint(str(tiny_folder))
    full, half = weights.load_thinker(opened).decoder, weights.load_thinker(opened, dtype="bfloat16").decoder
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.norm.weight, full.norm.weight.bfloat16())
    assert torch.equal(half.rotary_emb.inv_freq, full.rotary_emb.inv_freq)


def test_loading_leaves_the_global_generator_alone(tiny_folder: Path) -> None:
    opened = open_checkpoint(str(tiny_folder))
    before = torch.random.get_rng_state()
    weights.load_thinker(opened)
    weights.load_bigvgan(opened)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("load", "tensor"),
    [
        (weights.load_audio_encoder, "thinker.audio_tower.layers.1.fc1.weight"),
        (weights.load_vision_encoder, "thinker.visual.merger.ln_q.weight"),
        (weights.load_thinker, "thinker.model.layers.0.self_attn.q_proj.bias"),
        (weights.load_thinker, "thinker.lm_head.weight"),
        (weights.load_talker, "talker.codec_head.weight"),
        (weights.load_codec_dit, "token2wav.code2wav_dit_model.proj_out.bias"),
        (weights.load_bigvgan, "token2wav.code2wav_bigvgan_model.conv_post.weight"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    folder: Path, load: Callable[[Checkpoint], object], tensor: str
) -> None:
    def reshape(tensors: Tensors) -> None:
        tensors[tensor] = torch.cat([tensors[tensor], tensors[tensor]])

    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {tensor} has shape .*its config asks for"):
        load(rewrite(folder, reshape))
    with pytest.raises(CheckpointError, match=rf"tensor {tensor} is missing$"):
        load(rewrite(folder, lambda tensors: tensors.pop(tensor)))


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    name = "talker.model.layers.9.mlp.up_proj.weight"
    opened = rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name} is unexpected"):
        weights.load_talker(opened)
    weights.load_thinker(opened)  # another stage does not mind


def test_a_stored_buffer_must_agree_with_the_computed_one(folder: Path) -> None:
    """The published files hold rotary_embed.inv_freq, which transformers computes by now."""
    name = "token2wav.code2wav_dit_model.rotary_embed.inv_freq"
    computed = weights.load_codec_dit(open_checkpoint(str(folder))).rotary_embed.inv_freq
    weights.load_codec_dit(rewrite(folder, lambda tensors: tensors.update({name: computed.bfloat16()})))
    opened = rewrite(folder, lambda tensors: tensors.update({name: computed * 2}))
    with pytest.raises(CheckpointError, match=rf"tensor {name} differs from what its config computes"):
        weights.load_codec_dit(opened)


def test_tied_embeddings_share_one_table_as_in_transformers(folder: Path) -> None:
    from transformers import Qwen2_5OmniForConditionalGeneration

    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["thinker_config"]["tie_word_embeddings"] = True
    file.write_text(json.dumps(config))
    opened = rewrite(folder, lambda tensors: tensors.pop("thinker.lm_head.weight"))
    thinker = weights.load_thinker(opened)
    assert thinker.lm_head.weight is thinker.decoder.embed_tokens.weight
    theirs = Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(thinker.lm_head.weight, theirs.thinker.lm_head.weight)


@pytest.mark.parametrize("shape", ["reference", "odd_reference"])
def test_embedding_rows_are_a_slice_of_the_thinkers_table(shape: str, request: pytest.FixtureRequest) -> None:
    reference = request.getfixturevalue(shape)
    opened = open_checkpoint(str(reference.folder))
    table = reference.model.thinker.get_input_embeddings().weight
    assert torch.equal(weights.embedding_rows(opened, [511, 0, 405, 405]), table[[511, 0, 405, 405]])
    assert weights.embedding_rows(opened, []).shape == (0, table.shape[1])
    with pytest.raises(CheckpointError, match=r"has no row 512; allowed: 0 to 511"):
        weights.embedding_rows(opened, [512])


def test_speakers_are_those_of_the_reference(odd_folder: Path) -> None:
    theirs = Reference(odd_folder).model.speaker_map
    ours = weights.load_speakers(open_checkpoint(str(odd_folder)))
    assert list(ours) == list(theirs) == ["Chelsie", "Ethan"]
    for name, speaker in ours.items():
        assert speaker.bos_token == theirs[name]["bos_token"]
        assert torch.equal(speaker.cond, theirs[name]["cond"])
        assert torch.equal(speaker.ref_mel, theirs[name]["ref_mel"])


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ({}, r"expected a dict of speakers"),
        ([1], r"expected a dict of speakers by name, found list"),
        ({"A": {"bos_token": 1, "cond": torch.zeros(1, 192)}}, r"speaker A needs bos_token, cond and ref_mel"),
        (
            {"A": {"bos_token": 1, "cond": torch.zeros(192), "ref_mel": torch.zeros(1, 5, 80)}},
            r"speaker A: cond is \(192,\); allowed: \(1, 192\)",
        ),
        (
            {"A": {"bos_token": 1, "cond": torch.zeros(1, 192), "ref_mel": torch.zeros(1, 80, 5)}},
            r"speaker A: ref_mel is \(1, 80, 5\); allowed: \(1, frames, 80\)",
        ),
    ],
)
def test_a_wrong_speaker_file_is_named(folder: Path, speakers: object, message: str) -> None:
    torch.save(speakers, folder / "spk_dict.pt")
    with pytest.raises(CheckpointError, match=r"spk_dict\.pt: " + message):
        weights.load_speakers(open_checkpoint(str(folder)))


class _Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("code in spk_dict.pt was run",))


def test_a_speaker_file_runs_no_code(folder: Path) -> None:
    torch.save({"A": _Malicious()}, folder / "spk_dict.pt")
    with pytest.raises(CheckpointError, match=r"spk_dict\.pt: "):
        weights.load_speakers(open_checkpoint(str(folder)))


def test_no_speaker_file_is_an_error_that_says_what_it_is_for(folder: Path) -> None:
    (folder / "spk_dict.pt").unlink()
    with pytest.raises(CheckpointError, match=r"spk_dict\.pt: no such file; without it there is no voice"):
        weights.load_speakers(open_checkpoint(str(folder)))


def test_stages_of_one_process_may_load_at_the_same_time(reference: Reference) -> None:
    opened, model = open_checkpoint(str(reference.folder)), reference.model
    loaders = (weights.load_codec_dit, weights.load_bigvgan, weights.load_audio_encoder) * 2
    with ThreadPoolExecutor(len(loaders)) as pool:
        loaded = list(pool.map(lambda load: load(opened), loaders))
    token2wav = model.token2wav
    theirs = (token2wav.code2wav_dit_model, token2wav.code2wav_bigvgan_model, model.thinker.model.audio_tower) * 2
    for ours, expected in zip(loaded, theirs, strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
    ],
)
def test_the_dtype_is_the_devices_unless_it_is_said(dtype: str, device: str, expected: torch.dtype) -> None:
    assert weights.resolve_dtype(dtype, torch.device(device)) is expected


@pytest.mark.parametrize("node", [CodecDiT, BigVGAN])
def test_token2wav_is_float32_on_a_gpu_too(node: type) -> None:
    default = inspect.signature(node).parameters["dtype"].default
    assert weights.resolve_dtype(default, torch.device("cuda")) is torch.float32


@pytest.mark.parametrize("dtype", ["float31", "nn", "int64", "float64", "float8_e4m3fn", ""])
def test_an_unknown_dtype_is_named_with_those_there_are(dtype: str) -> None:
    with pytest.raises(NodeError, match=rf"dtype is '{dtype}'; allowed: auto, float32, bfloat16, float16$"):
        weights.resolve_dtype(dtype, torch.device("cpu"))


@pytest.mark.parametrize("node", [AudioEncoder, VisionEncoder, Thinker, Talker, CodecDiT, BigVGAN])
def test_a_stage_keeps_no_file_mapped(node: Any, folder: Path) -> None:
    """Else who copies new weights over old ones changes an answer under way, and who cuts a file short ends the process."""
    made = node(str(folder))
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    del made
