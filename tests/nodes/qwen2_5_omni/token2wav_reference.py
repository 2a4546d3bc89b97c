"""Token2wav in one process and one loop, over transformers' own modules: the oracle of the streamed stages.

``exact_*`` is what transformers does; ``chunked_*`` is what low_latency and balanced promise, written down once more
without the product's schedule, attention, solver or noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.weights import Speaker, load_bigvgan, load_codec_dit, load_speakers

CONTEXT = {"balanced": (4, 4), "low_latency": (2, 1)}  # blocks back, ahead
VOCODER_CONTEXT = 28


@dataclass(frozen=True)
class ChunkedMel:
    """One window's result: ``frames`` (n, 80) that it computed, ``lookahead`` (m, 80) that it also saw."""

    frames: torch.Tensor
    lookahead: torch.Tensor


class Token2WavReference:
    """The codec stages of one checkpoint, as transformers runs them."""

    def __init__(self, folder: Path) -> None:
        checkpoint = open_checkpoint(str(folder))
        self.dit = load_codec_dit(checkpoint)
        self.vocoder = load_bigvgan(checkpoint)
        self.speakers = load_speakers(checkpoint)

    @torch.no_grad()
    def exact_mel(self, codes: Sequence[int], voice: str, seed: int) -> torch.Tensor:
        """(frames, 80): Qwen2_5OmniToken2WavDiTModel.sample after torch.manual_seed."""
        speaker = self.speakers[voice]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.dit.sample(speaker.cond, speaker.ref_mel, torch.tensor([codes]))[0].T

    @torch.no_grad()
    def sound(self, mel: torch.Tensor) -> torch.Tensor:
        """(samples,) of mel (frames, 80)."""
        return self.vocoder(mel.T[None]).reshape(-1)

    def chunked_mel(self, codes: Sequence[int], voice: str, seed: int, mode: str) -> list[ChunkedMel]:
        """Windows of 1, 2, 3, 6, 6 ... blocks with the mode's context, over slices of one noise."""
        back, ahead = CONTEXT[mode]
        block, frames = self.dit.block_size, len(codes) * self.dit.repeats
        noise = torch.randn([1, frames, 80], generator=torch.Generator().manual_seed(seed))
        windows, first = [], 0
        for size in chain((1, 2, 3), repeat(6)):
            if first * block >= frames:
                return windows
            lo, hi = max(0, first - back) * block, min((first + size + ahead) * block, frames)
            mel = self._solve(self.speakers[voice], codes[lo // 2 : hi // 2], noise[:, lo:hi])
            start, end = first * block - lo, min((first + size) * block, frames) - lo
            windows.append(ChunkedMel(mel[start:end], mel[end:]))
            first += size
        raise AssertionError("unreachable")

    def chunked_sound(self, windows: Sequence[ChunkedMel], first_call_lookahead: bool) -> list[torch.Tensor]:
        """The sound of every call that gives any: 28 frames of context, the rest at the end."""
        mel = torch.cat([window.frames for window in windows])
        chunks, done, there = [], 0, 0
        for index, window in enumerate(windows):
            there += len(window.frames)
            early = index == 0 and first_call_lookahead and len(window.lookahead) > 0
            known = torch.cat((mel[:there], window.lookahead)) if early else mel[:there]
            until = there if early else there - VOCODER_CONTEXT
            if until > done:
                chunks.append(self._vocode(known, done, until))
                done = until
        return [*chunks, self._vocode(mel, done, len(mel))]

    def _vocode(self, known: torch.Tensor, start: int, end: int) -> torch.Tensor:
        lo = max(0, start - VOCODER_CONTEXT)
        return self.sound(known[lo:])[(start - lo) * 240 : (end - lo) * 240]

    @torch.no_grad()
    def _solve(self, speaker: Speaker, codes: Sequence[int], noise: torch.Tensor) -> torch.Tensor:
        """Qwen2_5OmniToken2WavDiTModel.sample with the noise (1, frames, 80) passed in."""

        def velocity(time: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
            output = self.dit(
                hidden_states=mel,
                speaker_embedding=speaker.cond[:, None].expand(-1, mel.shape[1], -1),
                condition_vector=speaker.ref_mel,
                quantized_code=torch.tensor([codes]),
                time_step=time,
            )
            return output[:1] + (output[:1] - output[1:]) * 0.5

        time = torch.linspace(0, 1, 10)
        time = time - (torch.cos(math.pi / 2 * time) - 1 + time)
        return reference.RungeKutta4ODESolver(velocity, noise).integrate(time)[-1][0]


def snr_db(signal: np.ndarray | torch.Tensor, other: np.ndarray | torch.Tensor) -> float:
    """How far below ``signal`` its difference to ``other`` lies."""
    reference_signal, difference = np.asarray(signal), np.asarray(signal) - np.asarray(other)
    return 20 * math.log10(float(np.linalg.norm(reference_signal)) / max(float(np.linalg.norm(difference)), 1e-30))
