"""A PCM16 WAV file that is written while it grows. At every moment, also after a kill, the file on disk is a valid one.

Samples go to disk before the header that counts them; each of the two is written by itself, at its place.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from omni_graph.errors import OmniGraphError
from omni_graph.payload import Array

HEADER_BYTES = 44
MAX_DATA_BYTES = 2**32 - 64  # RIFF counts in 32 bits, header included


class WavWriter:
    """Mono sound at ``rate`` Hz to ``path``. Raises OmniGraphError where the file cannot be written."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self.rate = rate
        self.samples = 0
        self._file = -1
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from None
        self._put(0, header(0, rate))

    def write(self, samples: Array) -> None:
        """Append float32 samples (n,); beyond -1..1 they are clipped."""
        import numpy as np

        total = self.samples + len(samples)
        if 2 * total > MAX_DATA_BYTES:
            raise OmniGraphError(f"{self.path}: would pass the {MAX_DATA_BYTES} bytes that a WAV file can hold")
        data = np.rint(np.clip(samples.values, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        self._put(HEADER_BYTES + 2 * self.samples, data)
        self._put(0, header(2 * total, self.rate))
        self.samples = total

    def _put(self, offset: int, data: bytes) -> None:
        try:
            while data:
                written = os.pwrite(self._file, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def header(data_bytes: int, rate: int) -> bytes:
    """The 44 bytes before ``data_bytes`` of mono PCM16 (Multimedia Programming Interface 1.0, RIFF WAVE)."""
    riff = struct.pack("<4sI4s", b"RIFF", HEADER_BYTES - 8 + data_bytes, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", data_bytes)


def check_writable(path: Path) -> None:
    """Raise OmniGraphError now where a file could not be written later; leaves nothing behind."""
    folder = path.parent
    if not folder.is_dir():
        raise OmniGraphError(f"{path}: cannot be written: there is no folder {folder}")
    if path.is_dir():
        raise OmniGraphError(f"{path}: cannot be written: it is a folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise OmniGraphError(f"{path}: cannot be written: permission denied")


def cannot_write(path: Path, error: OSError) -> OmniGraphError:
    """The one line."""
    return OmniGraphError(f"{path}: cannot be written: {error.strerror or error}")
