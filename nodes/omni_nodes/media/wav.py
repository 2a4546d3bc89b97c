"""A PCM16 WAV file that is written while it grows, and is a valid file after every write, also after Ctrl-C.

The header is brought up to date with each write; a file that was only opened is a valid empty one.
"""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from omni_nodes.media.limits import MediaError

_MAX_DATA_BYTES = 2**32 - 64  # RIFF counts in 32 bits, header included


class WavWriter:
    """Mono sound at ``rate`` Hz to ``path``. A context manager; ``close`` is idempotent."""

    def __init__(self, path: str | Path, rate: int) -> None:
        self.path = Path(path)
        self.rate = rate
        self.samples = 0
        self._file = self.path.open("wb")
        self._wave = wave.Wave_write(self._file)
        self._wave.setnchannels(1)
        self._wave.setsampwidth(2)
        self._wave.setframerate(rate)
        self.write(np.zeros(0, np.float32))

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append float32 samples (n,); beyond -1..1 they are clipped. The file on disk is valid when this returns.

        Raises MediaError for a sample that is not finite, and past the 4 GiB that a WAV file can hold.
        """
        if not np.isfinite(samples).all():
            raise MediaError(self.path.name, "was given a sample that is not a finite number")
        if 2 * (self.samples + len(samples)) > _MAX_DATA_BYTES:
            raise MediaError(self.path.name, f"would pass the {_MAX_DATA_BYTES} bytes that a WAV file can hold")
        self._wave.writeframes(np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
        self._file.flush()
        self.samples += len(samples)

    def close(self) -> None:
        """Close the file."""
        self._wave.close()
        self._file.close()

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
