"""A recording is playable at any moment, also when the program is stopped in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni_graph.cli.wav import WavWriter
from omni_graph.errors import OmniGraphError
from omni_graph.payload import Array


def test_the_file_is_valid_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    samples = np.linspace(-1, 1, 1_000, dtype=np.float32)
    writer = WavWriter(path, 24_000)
    assert soundfile.info(path).frames == 0
    for end in (300, 301, 1_000):
        writer.write(Array.of(samples[writer.samples : end]))
        read, rate = soundfile.read(path, dtype="int16")
        assert rate == 24_000
        assert np.array_equal(read, np.rint(samples[:end] * 32767).astype(np.int16))
    writer.close()
    writer.close()
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (1_000, 24_000, 1, "PCM_16")


def test_a_killed_program_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    program = (
        "import os, pathlib, numpy, omni_graph.cli.wav as w; from omni_graph.payload import Array; "
        f"writer = w.WavWriter(pathlib.Path({str(path)!r}), 16000); "
        "writer.write(Array.of(numpy.ones(77, numpy.float32))); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], np.full(77, 32767))


def test_loud_samples_are_clipped_and_an_impossible_path_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    writer = WavWriter(path, 8_000)
    writer.write(Array.of(np.array([2.0, -2.0], np.float32)))
    writer.close()
    assert soundfile.read(path, dtype="int16")[0].tolist() == [32767, -32767]
    with pytest.raises(OmniGraphError, match="cannot be written: No such file or directory"):
        WavWriter(tmp_path / "no" / "folder.wav", 8_000)
