"""The codec DiT's computation: one ODE evaluation of any number of windows at any ODE times, packed by blocks.

transformers' own modules and weights, reordered: what does not change between evaluations (ECAPA and speaker terms, code
terms, the modulation of every layer at each of the 36 times) is computed once. It knows nothing of ports or requests.

Shapes: N blocks of all windows, B frames a block, D hidden, M mel bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_nodes.compiled import MANY, compile_function, warm_up
from omni_nodes.linears import fuse_gelu, pack_linears
from omni_nodes.qwen2_5_omni.block_attention import Layout, Neighbours, Reach, attend, lay_out
from omni_nodes.qwen2_5_omni.flow_matching import Noise, Trajectory, evaluation_times

GUIDANCE = 0.5  # as Qwen2_5OmniToken2WavModel.forward's guidance_scale


class Voice(Protocol):
    """What the DiT needs of a speaker: ``cond`` (1, speaker) and ``ref_mel`` (1, frames, M), float32."""

    @property
    def cond(self) -> torch.Tensor: ...
    @property
    def ref_mel(self) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class WindowSolve:
    """A window between two evaluations: its trajectory, and what its input adds to the projected mel.

    ``guided`` (blocks, B, D) with codes and speaker; ``unguided`` (D,) the same for code 0 and a silent speaker.
    """

    trajectory: Trajectory
    guided: torch.Tensor
    unguided: torch.Tensor

    @property
    def frames(self) -> int:
        return len(self.trajectory.value)

    @property
    def done(self) -> bool:
        return self.trajectory.done

    @property
    def finite(self) -> bool:
        return bool(self.trajectory.value.isfinite().all())

    def mel(self) -> np.ndarray:
        """The finished mel (frames, M) float32."""
        assert self.done, self.trajectory.evaluation
        return self.trajectory.value.to("cpu").numpy()


class CodecDiTModel:
    """The DiT of one checkpoint and the voices it speaks with. Stateless between calls, but for the last layout.

    The float32 module is its own from then on: its layers compute in ``dtype``, while noise, trajectory and guidance stay
    float32. They are ``compiled``, or their linear layers are packed in place on a CPU (omni_nodes.linears).
    """

    def __init__(
        self,
        dit: reference.Qwen2_5OmniToken2WavDiTModel,
        voices: Mapping[str, Voice],
        dtype: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
    ) -> None:
        self._dit = dit.eval()
        self._run_layer = compile_function(_layer) if compiled else _layer
        self._device = dit.proj_out.weight.device
        self.block_frames: int = dit.block_size
        self.repeats: int = dit.repeats
        self.mel: int = dit.mel_dim
        self.code_count: int = dit.text_embed.codec_embed.num_embeddings
        weight = dit.input_embed.proj.weight.clone()
        sizes = (dit.mel_dim, dit.config.enc_dim, dit.config.emb_dim, dit.config.enc_emb_dim)
        mel_weight, self._ecapa_weight, code_weight, self._speaker_weight = weight.split(sizes, dim=1)
        self._dtype, self._mel_weight, self._code_weight = dtype, mel_weight.to(dtype), code_weight.to(dtype)
        self._reaches: list[Reach] = [(b.look_backward_block, b.look_ahead_block) for b in dit.transformer_blocks]
        self._layout: Layout | None = None
        with torch.inference_mode():
            time = functional.silu(dit.time_embed(evaluation_times().to(self._device)))
            self._modulations = [block.attn_norm.linear(time).to(dtype) for block in dit.transformer_blocks]
            self._last_modulation = dit.norm_out.linear(time).to(dtype)
            self._speakers = {name: self._speaker_terms(voice).to(dtype) for name, voice in voices.items()}
        self._forget_what_the_tables_hold()
        for parameter in dit.parameters():
            parameter.data = parameter.data.to(dtype)
        if compiled:
            warm_up(self._one_window, product(MANY, (True, False)))
        else:
            for block in dit.transformer_blocks:
                fuse_gelu(block.ff.ff)
            pack_linears(dit)

    def _one_window(self, kind: tuple[int, bool]) -> None:
        """One evaluation of a window of so many blocks; ``full``: the last one is, so that a layer that sees each block by
        itself needs no mask."""
        blocks, full = kind
        codes = [0] * (blocks * self.block_frames // self.repeats - (not full))
        self.evaluate([self.start(self.voices[0], codes, self.noise(0).frames(0, len(codes) * self.repeats))])

    def _forget_what_the_tables_hold(self) -> None:
        """The modulations' weights, two fifths of the published DiT's, ECAPA and the input's: nothing runs them again."""
        for block in self._dit.transformer_blocks:
            del block.attn_norm.linear
        del self._dit.norm_out.linear, self._dit.time_embed, self._dit.input_embed

    @property
    def voices(self) -> tuple[str, ...]:
        """The names of the speakers."""
        return tuple(self._speakers)

    def noise(self, seed: int) -> Noise:
        """The noise of one request."""
        return Noise(seed, self.mel)

    @torch.inference_mode()
    def start(self, voice: str, codes: Sequence[int], noise: torch.Tensor) -> WindowSolve:
        """A window over ``codes``, each in 0..code_count - 1, from ``noise`` (len(codes) * repeats, M)."""
        assert len(noise) == len(codes) * self.repeats, (len(noise), len(codes))
        speaker, silence = self._speakers[voice]
        embedding = self._dit.text_embed.codec_embed
        rows = functional.linear(embedding(torch.tensor(codes, device=self._device)), self._code_weight)
        terms = self._blocks(rows.repeat_interleave(self.repeats, dim=0)) + speaker
        unguided = functional.linear(embedding.weight[0], self._code_weight) + silence
        return WindowSolve(Trajectory(noise.to(self._device)), terms, unguided)

    @torch.inference_mode()
    def evaluate(self, windows: Sequence[WindowSolve]) -> None:
        """One ODE evaluation of each window: the guided velocity at its own time, and the step it allows."""
        layout = self._lay_out(tuple(window.frames for window in windows))
        velocities = torch.split(self._velocity(windows, layout), list(layout.blocks[: len(windows)]))
        for window, blocks in zip(windows, velocities, strict=True):
            window.trajectory.advance(blocks.flatten(0, 1)[: window.frames])

    def _velocity(self, windows: Sequence[WindowSolve], layout: Layout) -> torch.Tensor:
        """(N, B, M) float32: classifier-free guidance over both halves, stacked on the axis of blocks."""
        output = self._transform(self._input(windows), self._times(windows, layout), layout)
        guided, unguided = output.float().chunk(2)
        return guided + (guided - unguided) * GUIDANCE

    def _input(self, windows: Sequence[WindowSolve]) -> torch.Tensor:
        """DiTInputEmbedding of both halves (2N, B, D)."""
        mel = torch.cat([self._blocks(window.trajectory.point()) for window in windows]).to(self._dtype)
        projected = functional.linear(mel, self._mel_weight)
        guided = torch.cat([window.guided for window in windows])
        unguided = torch.cat([window.unguided.expand(len(window.guided), 1, -1) for window in windows])
        return torch.cat((projected + guided, projected + unguided))

    def _times(self, windows: Sequence[WindowSolve], layout: Layout) -> torch.Tensor:
        """For each block of both halves, which evaluation its window is at: (2N,)."""
        evaluations = [window.trajectory.evaluation for window in windows] * 2
        return torch.tensor(evaluations).repeat_interleave(torch.tensor(layout.blocks)).to(self._device)

    def _transform(self, hidden: torch.Tensor, times: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The layers over (2N, B, D), to the velocities (2N, B, M). As Qwen2_5OmniToken2WavDiTModel.forward."""
        for block, table, reach in zip(self._dit.transformer_blocks, self._modulations, self._reaches, strict=True):
            hidden = self._run_layer(block, hidden, table[times], layout.rope, layout.neighbours[reach])
        scale, shift = self._last_modulation[times].unsqueeze(1).chunk(2, dim=-1)
        velocity: torch.Tensor = self._dit.proj_out(torch.addcmul(shift, self._dit.norm_out.norm(hidden), 1 + scale))
        return velocity

    def _speaker_terms(self, voice: Voice) -> torch.Tensor:
        """(2, D) float32: what the speaker, and below it the silent one, adds to every frame's projected input.

        ECAPA runs once, over the reference mel and zeros, as the two rows of transformers' guidance batch.
        """
        reference_mel = voice.ref_mel.to(self._device)
        ecapa = self._dit.input_embed.spk_encoder(torch.cat((reference_mel, torch.zeros_like(reference_mel))))
        cond = voice.cond.to(self._device)
        speaker = torch.cat((cond, torch.zeros_like(cond)))
        bias = self._dit.input_embed.proj.bias
        return functional.linear(ecapa, self._ecapa_weight, bias) + functional.linear(speaker, self._speaker_weight)

    def _blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, width) -> (blocks, B, width), the last block padded with zeros."""
        padding = -len(rows) % self.block_frames
        return functional.pad(rows, (0, 0, 0, padding)).reshape(-1, self.block_frames, rows.shape[1])

    def _lay_out(self, lengths: tuple[int, ...]) -> Layout:
        """The layout of both halves; batches stay together for many evaluations, so the last one is kept."""
        both = lengths * 2
        if self._layout is None or self._layout.lengths != both:
            self._layout = lay_out(both, self.block_frames, set(self._reaches), self._dit.rotary_embed)
        return self._layout


def _layer(
    block: reference.DiTDecoderLayer,
    hidden: torch.Tensor,
    modulation: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    neighbours: Neighbours,
) -> torch.Tensor:
    """DiTDecoderLayer.forward over ``hidden`` (2N, B, D), with the ``modulation`` (2N, 6 D) that its norm would compute."""
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unsqueeze(1).chunk(6, dim=-1)
    normed = torch.addcmul(shift_a, block.attn_norm.norm(hidden), 1 + scale_a)
    hidden = torch.addcmul(hidden, gate_a, attend(block.attn, normed, rope, neighbours))
    normed = torch.addcmul(shift_m, block.ff_norm(hidden), 1 + scale_m)
    return torch.addcmul(hidden, gate_m, block.ff(normed))
