"""Loudness: brings sound to a target level while it streams. A StreamNode in a file beside its graph.

Chunked == whole, to the bit: each sample's gain depends on it and the samples before it, never on where the chunks were
cut. It does not look ahead: a reply that begins with a whisper is still being raised when it grows loud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_graph import In, Out, StreamNode
from omni_graph.node import NoParams
from omni_graph.payload import Array, AudioChunk

HEAD_START = 1_200  # samples at the target level that count as heard before the first: the gain begins at 1
MAX_GAIN = 10.0


@dataclass(slots=True)
class Heard:
    """What one request's stream has brought so far: the sum of its squared samples, and how many they were."""

    energy: float
    count: int


class Loudness(StreamNode[Heard, AudioChunk, AudioChunk]):
    """``target_db``: the RMS level aimed at, in dB of full scale."""

    speech = In(AudioChunk)
    audio = Out(AudioChunk)

    def __init__(self, target_db: float = -20.0) -> None:
        self._target = 10 ** (target_db / 20)

    def start(self, params: NoParams) -> Heard:
        return Heard(HEAD_START * self._target**2, HEAD_START)

    def forward(self, states: list[Heard], chunks: list[AudioChunk]) -> list[AudioChunk]:
        return [self._level(heard, chunk) for heard, chunk in zip(states, chunks, strict=True)]

    def finish(self, state: Heard) -> None:
        """Nothing is held back."""

    def _level(self, heard: Heard, chunk: AudioChunk) -> AudioChunk:
        squares = np.square(chunk.samples.values, dtype=np.float64)
        energy = np.cumsum([heard.energy, *squares])  # one addition after the other, so a cut changes no bit
        counts = heard.count + np.arange(len(energy))
        heard.energy, heard.count = float(energy[-1]), int(counts[-1])
        gain = np.minimum(self._target / np.sqrt(energy[1:] / counts[1:]), MAX_GAIN)
        levelled = np.clip(chunk.samples.values * gain, -1.0, 1.0)
        return AudioChunk(Array.of(levelled.astype(np.float32)), chunk.sample_rate, chunk.usage)
