"""A PCM16 WAV file that is written while it grows, and is a valid file after every write, also after Ctrl-C.

The header is brought up to date with each write; a file that was only opened is a valid empty one.
"""

from __future__ import annotations

import wave
from pathlib import Path

from omni_graph.errors import OmniGraphError
from omni_graph.payload import Array

MAX_DATA_BYTES = 2**32 - 64  # RIFF counts in 32 bits, header included


class WavWriter:
    """Mono sound at ``rate`` Hz to ``path``. Raises OmniGraphError where the file cannot be written."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self.rate = rate
        self.samples = 0
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise OmniGraphError(f"{path}: cannot be written: {error.strerror}") from None
        self._wave = wave.Wave_write(self._file)
        self._wave.setnchannels(1)
        self._wave.setsampwidth(2)
        self._wave.setframerate(rate)
        self._append(b"")

    def write(self, samples: Array) -> None:
        """Append float32 samples (n,); beyond -1..1 they are clipped. The file on disk is valid when this returns."""
        import numpy as np

        if 2 * (self.samples + len(samples)) > MAX_DATA_BYTES:
            raise OmniGraphError(f"{self.path}: would pass the {MAX_DATA_BYTES} bytes that a WAV file can hold")
        self._append(np.rint(np.clip(samples.values, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
        self.samples += len(samples)

    def _append(self, frames: bytes) -> None:
        self._wave.writeframes(frames)
        self._file.flush()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._wave.close()
        self._file.close()
