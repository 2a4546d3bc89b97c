"""What the stages need to know of a checkpoint, as values: read from config.json and the processor files, without torch.

The keys of the hub's files and of transformers 5 both load. A key that a file lacks takes the default that transformers'
own config class gives it (noted where it applies); where that has none, it is an error that names file and key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_graph.errors import OmniGraphError


class CheckpointError(OmniGraphError):
    """A checkpoint cannot be used: what is wrong, in which file, and what would mend it."""


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """The shape of one autoregressive decoder; ``context_length`` in tokens."""

    hidden_size: int
    vocab_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """Placeholder and marker ids, and the clock of TMRoPE (25 position ids a second, interleaved in chunks of 2 s)."""

    audio: int
    image: int
    video: int
    audio_start: int
    audio_end: int
    vision_start: int
    vision_end: int
    position_id_per_seconds: int
    seconds_per_chunk: int


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """The audio encoder: mel bins in, ``output_dim`` out; it works in blocks of ``2 * n_window`` mel frames."""

    mel_bins: int
    n_window: int
    output_dim: int

    @property
    def block_frames(self) -> int:
        return 2 * self.n_window


@dataclass(frozen=True, slots=True)
class VisionSettings:
    """The vision encoder: patches of patch_size² pixels and temporal_patch_size frames, merged 2x2 into one token."""

    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    in_channels: int
    output_dim: int

    @property
    def patch_values(self) -> int:
        """Values in a flattened patch: 1176 as published."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, slots=True)
class TalkerSettings:
    """The Talker: its decoder, the width of its inputs, and its special ids (text ids are the Thinker's)."""

    decoder: DecoderSettings
    embedding_size: int
    text_start: int
    text_end: int
    text_pad: int
    codec_pad: int
    codec_start: int
    codec_end: int
    codec_mask: int

    @property
    def eos(self) -> frozenset[int]:
        """Codes that end speech."""
        return frozenset((self.codec_pad, self.codec_end))

    @property
    def prompt_codes(self) -> frozenset[int]:
        """Codes the repetition penalty counts as said before the first one: those that stand for the prompt."""
        return frozenset((self.codec_mask, self.codec_pad, self.codec_start))


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """The codec DiT: blocks of ``block_size`` mel frames, ``repeats`` frames a code; layers that see one block around."""

    block_size: int
    repeats: int
    layers: int
    look_ahead_layers: tuple[int, ...]
    look_backward_layers: tuple[int, ...]
    num_embeds: int
    mel_bins: int
    speaker_dim: int

    @property
    def codes(self) -> int:
        """Ids 0 .. codes - 1 have an embedding: one more than ``num_embeds`` (class DiTCodecEmbedding)."""
        return self.num_embeds + 1

    @property
    def block_codes(self) -> int:
        return self.block_size // self.repeats


@dataclass(frozen=True, slots=True)
class OmniSettings:
    """Everything of config.json that a stage needs."""

    tokens: MediaTokens
    thinker: DecoderSettings
    thinker_eos: frozenset[int]
    tied_embeddings: bool
    audio: AudioSettings
    vision: VisionSettings
    talker: TalkerSettings
    codec: CodecSettings
    enable_audio_output: bool

    @property
    def suppressed_codes(self) -> frozenset[int]:
        """Codes the Talker must never say: the start mark, and ids the DiT has no embedding for, ends excepted.

        transformers suppresses only the start mark and crashes on the others.
        """
        without_embedding = range(self.codec.codes, self.talker.decoder.vocab_size)
        return (frozenset(without_embedding) | {self.talker.codec_start}) - self.talker.eos


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How pictures are resized (pixels a picture or frame, after rounding), normalised and cut."""

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class MelSettings:
    """The log-mel front end: ``n_fft`` and ``hop_length`` in samples at ``sample_rate`` Hz."""

    mel_bins: int
    n_fft: int
    hop_length: int
    sample_rate: int


@dataclass(frozen=True, slots=True)
class Section:
    """One JSON object of a file, with its place, so that an error can say where a value was looked for."""

    values: Mapping[str, Any]
    file: Path
    path: str = ""

    @classmethod
    def read(cls, file: Path) -> Section:
        """The file's top level. Raises CheckpointError when it is missing, unreadable or not a JSON object."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{file}: no such file; is the download complete?") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: not readable as JSON: {error}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: expected a JSON object, found {type(values).__name__}")
        return cls(values, file)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def section(self, key: str) -> Section:
        """A nested object; an absent one is empty, as transformers reads it."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Section(value, self.file, self._at(key))

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. A missing key is an error where there is no default."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "an integer")
        return value

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers; one number stands for a list of one."""
        value = self._get(key, default)
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self._wrong(key, value, "a list of integers")
        return tuple(items)

    def rgb(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """Three numbers, one for each channel."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise self._wrong(key, value, "three numbers")
        return (float(value[0]), float(value[1]), float(value[2]))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"{self.file}: {self._at(key)} is missing, and it has no default")
        return default

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _wrong(self, key: str, value: object, allowed: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {self._at(key)} is {value!r}; allowed: {allowed}")
