"""Builds Qwen2.5-Omni checkpoints with random weights, in the published file layout, offline: tiny ones, and one to measure.

They are real checkpoints: every stage, transformers included, loads them by the same code as the published ones. Weights
are fan-in scaled so that a wrong tensor shows; random models never end a reply, except in the shape ``stopping``.
A build is a function of seed and shape, and atomic: the folder is there whole, or not at all.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from omni_nodes.qwen2_5_omni import bench_config
from omni_nodes.qwen2_5_omni.quiet import no_progress_bars, no_token_id_warning
from omni_nodes.qwen2_5_omni.tiny_config import (
    CODEC_END,
    CODEC_PAD,
    MEL,
    PATCHES,
    TTS_TEXT_PAD,
    published_config,
    speaker_bos,
)
from omni_nodes.qwen2_5_omni.tiny_tokenizer import CHAT_TEMPLATE, build_tokenizer

SHAPES = ("default", "odd", "stopping", "bench")


def build_tiny(folder: Path, seed: int = 0, shape: str = "default") -> None:
    """Write a tiny checkpoint to ``folder``, which must not exist yet.

    ``default`` is written as transformers 5 saves (one file); ``odd`` has uneven head counts, other layer patterns and a
    DiT block of 12 frames, and is written as on the hub (older config keys, shards with an index); ``stopping`` is the
    default shape whose Thinker and Talker end by themselves; ``bench`` is large. Raises ValueError for any other shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"no tiny checkpoint of shape {shape!r}; allowed: {', '.join(SHAPES)}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a tiny checkpoint is built into a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with no_token_id_warning(), no_progress_bars():
            _write(draft, seed, shape)
        draft.chmod(0o755)
        os.rename(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def build_bench(folder: Path, seed: int = 0) -> None:
    """Write a checkpoint of some 320 M parameters (1.2 GiB) to ``folder``: large enough that compute dominates."""
    build_tiny(folder, seed, "bench")


def _write(folder: Path, seed: int, shape: str) -> None:
    bench = shape == "bench"
    tokenizer = build_tokenizer(bench_config.VOCABULARY, bench_config.corpus()) if bench else build_tokenizer()
    config = published_config(tokenizer, shape)
    _write_json(folder / "config.json", config)
    generator = torch.Generator().manual_seed(seed)
    model = _random_model(Qwen2_5OmniConfig.from_pretrained(folder), generator)
    end = _end_by_itself if shape == "stopping" else _never_end
    end(model)
    if bench:
        _hear_the_last_token(model)
    torch.save(_speakers(shape, config["token2wav_config"]["dit_config"], generator), folder / "spk_dict.pt")
    if shape == "odd":
        _save_as_on_hub(folder, model, config, tokenizer)
    else:
        _save_as_transformers(folder, model, tokenizer)
    _write_json(folder / "generation_config.json", {"eos_token_id": config["thinker_config"]["eos_token_id"]})


def _save_as_transformers(
    folder: Path, model: Qwen2_5OmniForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    frame_size = {"shortest_edge": 28 * 28 * 128, "longest_edge": 28 * 28 * 768}
    processor = {
        "feature_extractor": MEL,
        "image_processor": {"image_processor_type": "Qwen2VLImageProcessor", "size": size, **PATCHES},
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor", "size": frame_size, **PATCHES},
        "processor_class": "Qwen2_5OmniProcessor",
    }
    _write_json(folder / "processor_config.json", processor)


def _save_as_on_hub(
    folder: Path, model: Qwen2_5OmniForConditionalGeneration, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Shards with an index, older config keys, one flat preprocessor_config.json, the template as JSON."""
    model.save_pretrained(folder, max_shard_size="1MB")
    _write_json(folder / "config.json", config)
    tokenizer.save_pretrained(folder)
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    flat = {
        **MEL,
        **PATCHES,
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 56 * 56,
        "max_pixels": 28 * 28 * 16384,
        "processor_class": "Qwen2_5OmniProcessor",
    }
    _write_json(folder / "preprocessor_config.json", flat)


@torch.no_grad()
def _random_model(config: Qwen2_5OmniConfig, generator: torch.Generator) -> Qwen2_5OmniForConditionalGeneration:
    with torch.random.fork_rng(devices=[]):
        model = Qwen2_5OmniForConditionalGeneration(config).eval()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(_spread(module, name, noise))
    model.token2wav.code2wav_bigvgan_model.conv_post.weight.mul_(0.02)  # keeps the waveform inside -1..1
    return model


def _spread(module: nn.Module, name: str, noise: torch.Tensor) -> torch.Tensor:
    """Noise at the scale of a trained tensor of this kind: unit-gain matrices, norms about 1, biases about 0."""
    if isinstance(module, nn.Embedding):
        return noise * 0.5
    if noise.ndim >= 2:
        return noise / math.sqrt(noise[0].numel())
    if name == "weight":
        return 1 + 0.1 * noise
    return 0.1 * noise


@torch.no_grad()
def _never_end(model: Qwen2_5OmniForConditionalGeneration) -> None:
    """Score every end of reply and speech 0, which random logits always beat."""
    model.thinker.lm_head.weight[model.config.thinker_config.eos_token_id] = 0
    talker = model.config.talker_config
    model.talker.codec_head.weight[[talker.tts_codec_pad_token_id, talker.tts_codec_end_token_id]] = 0


@torch.no_grad()
def _end_by_itself(model: Qwen2_5OmniForConditionalGeneration) -> None:
    """End replies within some tokens, by chance, and speech soon after its text, when its input is the pad embedding."""
    model.thinker.lm_head.weight[model.config.thinker_config.eos_token_id] *= 2.6
    pad = model.thinker.get_input_embeddings().weight[TTS_TEXT_PAD]
    pad *= 8
    silence = model.talker.thinker_to_talker_proj.weight @ pad
    model.talker.codec_head.weight[CODEC_PAD] = 0
    model.talker.codec_head.weight[CODEC_END] = silence / silence.norm() * 0.6


@torch.no_grad()
def _hear_the_last_token(model: Qwen2_5OmniForConditionalGeneration) -> None:
    """Let embeddings outweigh what many layers of noise add: or greedy text says one token for ever."""
    model.thinker.get_input_embeddings().weight.mul_(4)


def _speakers(shape: str, dit: dict[str, Any], generator: torch.Generator) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "bos_token": bos,
            "cond": torch.randn(1, dit["enc_emb_dim"], generator=generator),
            "ref_mel": torch.randn(1, frames, dit["mel_dim"], generator=generator),
        }
        for (name, bos), frames in zip(speaker_bos(shape).items(), (60, 44), strict=True)
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
