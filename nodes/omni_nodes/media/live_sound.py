"""Sound that comes in chunks of any size, at any one rate, to log-mel blocks: a bounded slice of work at a time.

The blocks do not depend on how the sound was cut into chunks: soxr's stream and the mel stream do not.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import soxr
from numpy.typing import NDArray

from omni_nodes.media.limits import MediaError, MediaLimits
from omni_nodes.media.mel import RATE, Frames, MaximumPolicy, MelStream, Samples


class LiveSound:
    """Chunks in, features (bins, at most 200) out. ``name`` is what errors call it.

    Raises MediaError for what cannot be used, at the chunk that shows it.
    """

    def __init__(self, name: str, limits: MediaLimits, policy: MaximumPolicy, bins: int) -> None:
        self._name = name
        self._limits = limits
        self._mel = MelStream(policy, bins)
        self._rate = 0
        self._samples = 0
        self._stream: soxr.ResampleStream | None = None
        self._pieces: deque[Samples] = deque()
        self._ended = self._finished = False

    @property
    def busy(self) -> bool:
        """There is work for ``advance``."""
        return bool(self._pieces) or (self._ended and not self._finished)

    @property
    def finished(self) -> bool:
        """The last block has been made."""
        return self._finished

    def push(self, samples: NDArray[np.generic], rate: int) -> None:
        """A chunk, float32 (n,) at ``rate`` Hz; an empty one says nothing, not even its rate."""
        if samples.dtype != np.float32 or samples.ndim != 1:
            seen = f"{samples.dtype} {samples.shape}"
            raise MediaError(self._name, f"has a chunk {seen}; float32 (samples,), which is mono, is allowed")
        if not len(samples):
            return
        self._check_rate(rate)
        self._samples += len(samples)
        self._limits.check_seconds(self._samples / rate, self._name, "audio")
        if not np.isfinite(samples).all():
            raise MediaError(self._name, "has a sample that is not a finite number")
        mono = samples.astype(np.float32, copy=False)
        self._pieces.extend(mono[start : start + rate] for start in range(0, len(mono), rate))

    def _check_rate(self, rate: int) -> None:
        if self._rate and rate != self._rate:
            raise MediaError(self._name, f"changes its sampling rate from {self._rate} to {rate} Hz; one is allowed")
        if not self._rate:
            self._limits.check_sound(rate, 1, self._name)
            self._rate = rate
            if rate != RATE:
                self._stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")

    def end(self) -> None:
        """No more will come."""
        self._ended = True

    def advance(self) -> list[Frames]:
        """The blocks that one slice of work completes: a second of sound, or the end."""
        if self._pieces:
            piece = self._pieces.popleft()
            self._mel.push(piece if self._stream is None else self._stream.resample_chunk(piece))
        elif self._ended and not self._finished:
            if self._stream is not None:
                self._mel.push(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
            self._mel.finish()
            self._finished = True
        return list(self._mel.drain())
