"""Weights, stage by stage: transformers' own modules, filled from the checkpoint's safetensors, and checked.

A module is built on the meta device, so that no random weight ever exists: each of its tensors comes from the file or is
an error that names it. Only the asked stage's tensors are read. Non-persistent buffers are computed, as transformers does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, Qwen2_5OmniConfig
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from omni_graph.errors import NodeError
from omni_nodes.allocator import keep_freed_memory
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint, CheckpointError
from omni_nodes.qwen2_5_omni.quiet import no_token_id_warning
from omni_nodes.supported import require_transformers

require_transformers()

EMBEDDING_TABLE = "thinker.model.embed_tokens.weight"
AUDIO_ENCODER = "thinker.audio_tower."
VISION_ENCODER = "thinker.visual."
THINKER_DECODER = "thinker.model."
LM_HEAD = "thinker.lm_head."
TALKER = "talker."
CODEC_DIT = "token2wav.code2wav_dit_model."
BIGVGAN = "token2wav.code2wav_bigvgan_model."

DTYPES = ("float32", "bfloat16", "float16")

Device = torch.device | str  # "auto": CUDA where there is one, else the CPU
P = TypeVar("P", bound=PreTrainedModel)
M = TypeVar("M", bound=nn.Module)


class ThinkerModules(NamedTuple):
    """The Thinker's decoder (embeddings (1, n, H) in, normed hidden (1, n, H) out) and its head (H -> vocabulary)."""

    decoder: modeling.Qwen2_5OmniThinkerTextModel
    lm_head: nn.Linear


class TalkerModules(NamedTuple):
    """The Talker: ``decoder`` over its hidden size, ``projection`` from embedding size to it, ``codec_head`` to logits,
    ``embedding`` of codes at the embedding size."""

    decoder: modeling.Qwen2_5OmniTalkerModel
    projection: nn.Linear
    codec_head: nn.Linear
    embedding: nn.Embedding


@dataclass(frozen=True, slots=True, eq=False)
class Speaker:
    """A voice: ``bos_token`` a Thinker id; ``cond`` (1, speaker dim) and ``ref_mel`` (1, T, mel bins) float32."""

    bos_token: int
    cond: torch.Tensor
    ref_mel: torch.Tensor


def resolve_device(device: Device) -> torch.device:
    """The device that ``device`` names; ``auto`` is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype that ``dtype`` names; ``auto`` is float32 on a CPU and bfloat16, as published, elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise NodeError(f"dtype is {dtype!r}; allowed: auto, {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, dtype)
    return found


def config_of(checkpoint: Checkpoint) -> Qwen2_5OmniConfig:
    """transformers' config of the whole model, with attention by scaled_dot_product_attention throughout."""
    with no_token_id_warning():
        return Qwen2_5OmniConfig.from_pretrained(checkpoint.folder, attn_implementation="sdpa")


def load_audio_encoder(
    checkpoint: Checkpoint, device: Device = "cpu", dtype: str = "float32"
) -> modeling.Qwen2_5OmniAudioEncoder:
    """The audio tower. Raises CheckpointError for a missing, unexpected or misshapen tensor, as all loaders here do."""
    config = config_of(checkpoint).thinker_config.audio_config
    model = _on_meta(modeling.Qwen2_5OmniAudioEncoder, config)
    return _fill(model, checkpoint, AUDIO_ENCODER, device, dtype)


def load_vision_encoder(
    checkpoint: Checkpoint, device: Device = "cpu", dtype: str = "float32"
) -> modeling.Qwen2_5OmniVisionEncoder:
    """The vision tower, merger included."""
    config = config_of(checkpoint).thinker_config.vision_config
    model = _on_meta(modeling.Qwen2_5OmniVisionEncoder, config)
    return _fill(model, checkpoint, VISION_ENCODER, device, dtype)


def load_thinker(checkpoint: Checkpoint, device: Device = "cpu", dtype: str = "float32") -> ThinkerModules:
    """The text decoder and its head; where the config ties them and the file has no head, they share the embedding."""
    config = config_of(checkpoint).thinker_config.text_config
    decoder = _on_meta(modeling.Qwen2_5OmniThinkerTextModel, config)
    _fill(decoder, checkpoint, THINKER_DECODER, device, dtype)
    with torch.device("meta"):
        lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    if checkpoint.settings.tied_embeddings and f"{LM_HEAD}weight" not in checkpoint.tensors:
        lm_head.weight = decoder.embed_tokens.weight
        return ThinkerModules(decoder, lm_head.eval())
    return ThinkerModules(decoder, _fill(lm_head, checkpoint, LM_HEAD, device, dtype))


def load_talker(checkpoint: Checkpoint, device: Device = "cpu", dtype: str = "float32") -> TalkerModules:
    """The Talker's decoder, projection, head and code embedding."""
    talker = _on_meta(modeling.Qwen2_5OmniTalkerForConditionalGeneration, config_of(checkpoint).talker_config)
    _fill(talker, checkpoint, TALKER, device, dtype)
    return TalkerModules(talker.model, talker.thinker_to_talker_proj, talker.codec_head, talker.model.embed_tokens)


def load_codec_dit(checkpoint: Checkpoint, device: Device = "cpu") -> modeling.Qwen2_5OmniToken2WavDiTModel:
    """The codec's DiT, in float32: transformers forces token2wav to it."""
    model = _on_meta(modeling.Qwen2_5OmniToken2WavDiTModel, config_of(checkpoint).token2wav_config.dit_config)
    return _fill(model, checkpoint, CODEC_DIT, device, "float32")


def load_bigvgan(checkpoint: Checkpoint, device: Device = "cpu") -> modeling.Qwen2_5OmniToken2WavBigVGANModel:
    """The vocoder, in float32 too."""
    model = _on_meta(modeling.Qwen2_5OmniToken2WavBigVGANModel, config_of(checkpoint).token2wav_config.bigvgan_config)
    return _fill(model, checkpoint, BIGVGAN, device, "float32")


def load_speakers(checkpoint: Checkpoint) -> dict[str, Speaker]:
    """The voices of spk_dict.pt by name, in file order. Raises CheckpointError when a part is missing or misshapen."""
    file = checkpoint.folder / "spk_dict.pt"
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; without it there is no voice to speak with")
    try:
        entries = torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # whatever torch's restricted reader raises for a file that is more, or less, than tensors
        raise CheckpointError(f"{file}: not a file of tensors: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"{file}: expected a dict of speakers by name, found {type(entries).__name__}")
    return {name: _speaker(checkpoint, file, name, entry) for name, entry in entries.items()}


def embedding_rows(checkpoint: Checkpoint, token_ids: Iterable[int]) -> torch.Tensor:
    """Rows (n, H) of the Thinker's embedding table, float32, read one by one from the file; the table never loads."""
    ids = list(token_ids)
    file = checkpoint.tensors.get(EMBEDDING_TABLE)
    if file is None:
        raise CheckpointError(f"{checkpoint.folder}: tensor {EMBEDDING_TABLE} is missing")
    with _opened(file) as handle:
        table = handle.get_slice(EMBEDDING_TABLE)
        rows, width = table.get_shape()
        for token in ids:
            if not 0 <= token < rows:
                raise CheckpointError(f"{file}: {EMBEDDING_TABLE} has no row {token}; allowed: 0 to {rows - 1}")
        read = [table[token : token + 1].float() for token in ids]
    return torch.cat(read) if read else torch.empty(0, width)


def _on_meta(cls: type[P], config: Any) -> P:
    """The module with parameters on the meta device and its buffers computed on the CPU.

    torch.device as a context holds for this thread alone: stages of one process may load at the same time.
    """
    with torch.device("meta"):
        model: P = cls(config)
    for module in model.modules():
        names = [name for name, _ in module.named_buffers(recurse=False)]
        if not names:
            continue
        for name in names:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        model._init_weights(module)  # what from_pretrained calls to compute a buffer that no file holds
    return model


def _fill(model: M, checkpoint: Checkpoint, prefix: str, device: Device, dtype: str) -> M:
    """Give every parameter its tensor from the files; then move to ``device``, eval mode, no gradient."""
    place = resolve_device(device)
    numbers = resolve_dtype(dtype, place)
    if place.type == "cpu":
        keep_freed_memory()
    wanted = dict(model.named_parameters())
    stored = {name[len(prefix) :]: file for name, file in checkpoint.tensors.items() if name.startswith(prefix)}
    buffers = dict(model.named_buffers())
    _check_names(checkpoint, prefix, wanted, stored, buffers)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor, file in _read(prefix, stored):
        if name in buffers:
            _check_buffer(prefix + name, file, tensor, buffers[name])
            continue
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{file}: tensor {prefix}{name} has shape {tuple(tensor.shape)}; "
                f"its config asks for {tuple(wanted[name].shape)}"
            )
        tensors[name] = tensor.to(device=place, dtype=numbers)
    model.load_state_dict(tensors, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(place)
    return model.eval().requires_grad_(False)


def _check_names(
    checkpoint: Checkpoint,
    prefix: str,
    wanted: Mapping[str, torch.Tensor],
    stored: Mapping[str, Path],
    buffers: Mapping[str, torch.Tensor],
) -> None:
    if missing := sorted(wanted.keys() - stored.keys()):
        raise CheckpointError(f"{checkpoint.folder}: tensor {prefix}{missing[0]} is missing{_others(missing)}")
    if unexpected := sorted(stored.keys() - wanted.keys() - buffers.keys()):
        name = unexpected[0]
        raise CheckpointError(
            f"{stored[name]}: tensor {prefix}{name} is unexpected{_others(unexpected)}; its config builds no such weight"
        )


def _others(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _read(prefix: str, stored: Mapping[str, Path]) -> Iterator[tuple[str, torch.Tensor, Path]]:
    with ExitStack() as stack:
        handles = {file: stack.enter_context(_opened(file)) for file in sorted(set(stored.values()))}
        for name, file in stored.items():
            try:
                tensor = handles[file].get_tensor(prefix + name)
            except SafetensorError as error:
                raise CheckpointError(f"{file}: tensor {prefix}{name} cannot be read: {error}") from None
            yield name, tensor, file


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file, or cut short: {error}") from None


def _check_buffer(name: str, file: Path, stored: torch.Tensor, computed: torch.Tensor) -> None:
    """Older files also hold buffers that are computed now (rotary_embed.inv_freq); they must agree."""
    tolerance = 4 * torch.finfo(stored.dtype).eps if stored.is_floating_point() else 0.0
    if stored.shape != computed.shape or not torch.allclose(stored.float(), computed.float(), rtol=tolerance):
        raise CheckpointError(f"{file}: tensor {name} differs from what its config computes")


def _speaker(checkpoint: Checkpoint, file: Path, name: str, entry: Any) -> Speaker:
    codec = checkpoint.settings.codec
    try:
        speaker = Speaker(int(entry["bos_token"]), entry["cond"].float(), entry["ref_mel"].float())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: speaker {name} needs bos_token, cond and ref_mel: {error!r}") from None
    if speaker.cond.shape != (1, codec.speaker_dim):
        raise CheckpointError(
            f"{file}: speaker {name}: cond is {tuple(speaker.cond.shape)}; allowed: (1, {codec.speaker_dim})"
        )
    if speaker.ref_mel.ndim != 3 or speaker.ref_mel.shape[::2] != (1, codec.mel_bins):
        raise CheckpointError(
            f"{file}: speaker {name}: ref_mel is {tuple(speaker.ref_mel.shape)}; allowed: (1, frames, {codec.mel_bins})"
        )
    return speaker
