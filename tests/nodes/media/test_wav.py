"""A recording is playable at any moment, also when the program is stopped in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni_nodes.media.limits import MediaError
from omni_nodes.media.wav import WavWriter


def test_the_file_is_valid_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    samples = np.linspace(-1, 1, 1_000, dtype=np.float32)
    writer = WavWriter(path, 24_000)
    assert soundfile.info(path).frames == 0
    for end in (300, 301, 1_000):
        writer.write(samples[writer.samples : end])
        read, rate = soundfile.read(path, dtype="int16")
        assert rate == 24_000
        assert np.array_equal(read, np.rint(samples[:end] * 32767).astype(np.int16))
    writer.close()
    writer.close()
    assert soundfile.info(path).frames == 1_000


def test_nothing_written_is_an_empty_wav(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "empty.wav", 24_000):
        pass
    info = soundfile.info(tmp_path / "empty.wav")
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (0, 24_000, 1, "PCM_16")


def test_a_killed_program_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    program = (
        "import os, numpy, omni_nodes.media.wav as w; "
        f"writer = w.WavWriter({str(path)!r}, 16000); writer.write(numpy.ones(77, numpy.float32)); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], np.full(77, 32767))


def test_loud_samples_are_clipped_and_broken_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with WavWriter(path, 8_000) as writer:
        writer.write(np.array([2.0, -2.0], np.float32))
        with pytest.raises(MediaError, match="not a finite number"):
            writer.write(np.array([np.nan], np.float32))
    assert soundfile.read(path, dtype="int16")[0].tolist() == [32767, -32767]
