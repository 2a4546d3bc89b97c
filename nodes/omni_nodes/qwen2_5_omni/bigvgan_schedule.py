"""Which mel frames each vocoder call turns into sound, and with which context: a pure function of the mel packets.

Every frame is vocoded by exactly one call, and sees at least its whole receptive field (CONTEXT_FRAMES each side), but for
the first packet's, where the writer sent context of its own with it. No torch, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni_nodes.payloads import Mel

CONTEXT_FRAMES = 28  # BigVGAN's receptive field: 27.9 frames to the left, 27.7 to the right


@dataclass(frozen=True, slots=True)
class VocoderCall:
    """``mel`` (n, bins) float32; the sound of frames [skip, skip + frames) is the result; ``codes`` is what it covers."""

    mel: np.ndarray
    skip: int
    frames: int
    codes: int


class MelTape:
    """A request's mel as far as a call can still want it, and how far the sound has come."""

    def __init__(self) -> None:
        self._mel: np.ndarray | None = None  # frames from _first on
        self._first = 0
        self._total = 0
        self._vocoded = 0
        self._codes = 0
        self._codes_vocoded = 0

    @property
    def kept(self) -> int:
        """Frames held in memory."""
        return self._total - self._first

    def append(self, packet: Mel) -> VocoderCall | None:
        """The call that this packet makes possible. A look-ahead lets its frames sound now; else the last wait."""
        frames = packet.frames.values
        self._mel = frames if self._mel is None else np.concatenate((self._mel, frames))
        self._total += len(frames)
        self._codes += packet.codes
        if len(packet.lookahead):
            return self._call(self._total, packet.lookahead.values)
        return self._call(self._total - CONTEXT_FRAMES, frames[:0])

    def finish(self) -> VocoderCall | None:
        """The call for the frames that waited for more context, when there is none to come."""
        return None if self._mel is None else self._call(self._total, self._mel[:0])

    def _call(self, end: int, lookahead: np.ndarray) -> VocoderCall | None:
        """Vocode up to frame ``end``, with all that is held and ``lookahead`` around it."""
        if end <= self._vocoded:
            return None
        assert self._mel is not None
        codes = self._codes * end // self._total
        call = VocoderCall(
            mel=np.concatenate((self._mel, lookahead)),
            skip=self._vocoded - self._first,
            frames=end - self._vocoded,
            codes=codes - self._codes_vocoded,
        )
        self._vocoded, self._codes_vocoded = end, codes
        self._forget()
        return call

    def _forget(self) -> None:
        """Drop what lies more than the context before the next call's frames."""
        assert self._mel is not None
        first = max(0, self._vocoded - CONTEXT_FRAMES)
        self._mel = self._mel[first - self._first :].copy()
        self._first = first
