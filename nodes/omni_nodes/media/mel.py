"""Whisper's log-mel spectrogram, block by block, bit-equal to WhisperFeatureExtractor for a whole clip.

Blocks of fixed size (zeros beyond the end) make the result independent of how the samples arrive: the transform and the
matrix product see the same shapes every time. Only the clamp looks at the whole clip: its maximum is the policy's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

Samples = NDArray[np.float32]
Frames = NDArray[np.float32]
MaximumPolicy = Literal["global", "running"]

RATE = 16_000
WINDOW = 400
HOP = 160
MARGIN = WINDOW // 2
BLOCK = 200
"""Frames of a block: 2 s, what Qwen2.5-Omni's audio encoder attends over."""
SPAN = (BLOCK - 1) * HOP + WINDOW
"""Samples that a block's frames hear."""


@dataclass(frozen=True, slots=True)
class MelBlock:
    """``frames`` (bins, at most 200): log10 mel energies before the clamp. ``maximum`` also covers the frames after a
    clip's end that still hear it, which the extractor's maximum counts too: a block of them alone has no frames."""

    frames: Frames
    maximum: float


class LogMel:
    """Samples, in any pieces, to mel blocks. Only the last ones are shorter than 200 frames.

    N samples give ceil(N / 160) frames; frame t is centred on sample 160 t. The signal is reflected at its start, as
    torch.stft centres it, and followed by silence, as the extractor pads it. So a clip below one hop is one frame, and no
    sample at all is no frame. (The extractor reflects the end of a clip of exactly 300 s and drops what is longer: here
    every clip is followed by silence and encoded whole.)
    """

    def __init__(self, bins: int = 128) -> None:
        filters = mel_filter_bank(1 + WINDOW // 2, bins, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        self._filters = torch.from_numpy(filters).to(torch.float32).T
        self._window = torch.hann_window(WINDOW)
        self._pending = np.zeros(0, np.float32)
        self._reflected = False
        self._samples = 0
        self._frames = 0

    def push(self, samples: Samples) -> list[MelBlock]:
        """The blocks that these samples, float32 (n,) at 16 kHz, complete."""
        self._samples += len(samples)
        return [_whole(block) for block in self._blocks(samples)]

    def finish(self) -> list[MelBlock]:
        """The blocks that are left: silence is appended until no frame hears the clip any more."""
        if not self._samples:
            return []
        valid, heard = -(-self._samples // HOP), -(-(self._samples + MARGIN) // HOP)
        covered = -(-heard // BLOCK) * BLOCK
        silence = (covered - 1) * HOP + WINDOW - MARGIN - self._samples
        left = valid - self._frames
        tail = self._blocks(np.zeros(silence, np.float32))
        ends = [min(max(left - BLOCK * index, 0), BLOCK) for index in range(len(tail))]
        return [MelBlock(block[:, :end], float(block.max())) for block, end in zip(tail, ends, strict=True)]

    def _blocks(self, samples: Samples) -> list[Frames]:
        self._pending = np.concatenate([self._pending, samples])
        if not self._reflected:
            if len(self._pending) <= MARGIN:
                return []
            self._pending = np.concatenate([self._pending[MARGIN:0:-1], self._pending])
            self._reflected = True
        starts = range(0, len(self._pending) - SPAN + 1, BLOCK * HOP)
        blocks = [self._transform(self._pending[start : start + SPAN]) for start in starts]
        self._pending = self._pending[len(blocks) * BLOCK * HOP :]
        self._frames += len(blocks) * BLOCK
        return blocks

    def _transform(self, samples: Samples) -> Frames:
        """(SPAN,) -> (bins, 200). The same calls as WhisperFeatureExtractor's torch path, on one block."""
        spectrum = torch.stft(
            torch.from_numpy(samples)[None], WINDOW, HOP, window=self._window, center=False, return_complex=True
        )
        power = (spectrum.abs() ** 2).contiguous()
        energies: Frames = (self._filters @ power).clamp(min=1e-10).log10()[0].numpy()
        return energies


class MelStream:
    """Samples in, normalised features (bins, 200) out, the last one shorter.

    ``global``: clamped at the whole clip's maximum - 8, as WhisperFeatureExtractor does; blocks come after ``finish``.
    ``running``: clamped at the maximum up to and with that block, which does not depend on how the samples arrive;
    blocks come as they complete.
    """

    def __init__(self, policy: MaximumPolicy = "global", bins: int = 128) -> None:
        self._policy = policy
        self._mel = LogMel(bins)
        self._ready: deque[MelBlock] = deque()
        self._maximum = -np.inf
        self._finished = False

    def push(self, samples: Samples) -> None:
        """More of the clip: float32 (n,) at 16 kHz."""
        self._hold(self._mel.push(samples))

    def finish(self) -> None:
        """The clip is complete."""
        self._hold(self._mel.finish())
        self._finished = True

    def take(self) -> Frames | None:
        """The next features, None when there are none now."""
        if not self._ready or (self._policy == "global" and not self._finished):
            return None
        block = self._ready.popleft()
        return normalize(block.frames, self._maximum if self._policy == "global" else block.maximum)

    def drain(self) -> Iterator[Frames]:
        """All features that there are now."""
        while (features := self.take()) is not None:
            yield features

    def _hold(self, blocks: list[MelBlock]) -> None:
        for block in blocks:
            self._maximum = max(self._maximum, block.maximum)
            if block.frames.shape[1]:
                self._ready.append(MelBlock(block.frames, self._maximum))


def normalize(frames: Frames, maximum: float) -> Frames:
    """Whisper's dynamic range: clamp at ``maximum`` - 8, then (x + 4) / 4; float32 throughout."""
    floor = np.float32(maximum) - np.float32(8)
    return (np.maximum(frames, floor) + np.float32(4)) / np.float32(4)


def log_mel(samples: Samples, bins: int = 128) -> Frames:
    """A whole clip, float32 (n,) at 16 kHz, to features (bins, ceil(n / 160)) with the ``global`` maximum."""
    stream = MelStream(bins=bins)
    stream.push(samples)
    stream.finish()
    return np.concatenate([np.zeros((bins, 0), np.float32), *stream.drain()], axis=1)


def _whole(block: Frames) -> MelBlock:
    return MelBlock(block, float(block.max()))
