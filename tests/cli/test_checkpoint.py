"""``checkpoint tiny`` writes a whole checkpoint without a word of others', a function of its seed, or nothing at all."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.background import Background
from tests.cli.command import command


def test_it_writes_a_checkpoint_and_says_one_line(built: Background, tiny: Path) -> None:
    assert built.process.returncode == 0
    assert built.err == "wrote tiny\n"
    files = {one.name for one in tiny.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "spk_dict.pt", "processor_config.json"} <= files
    built.leaves_nothing()


def test_the_weights_are_a_function_of_the_seed(capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path) -> None:
    weights = (tiny / "model.safetensors").read_bytes()
    for seed, same in (("0", True), ("1", False)):
        ran = command(capsys, "checkpoint", "tiny", "qwen2_5_omni", str(tmp_path / seed), "--seed", seed)
        assert (ran.code, ran.out) == (0, "")
        assert ((tmp_path / seed / "model.safetensors").read_bytes() == weights) is same


def test_a_folder_that_is_there_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    ran = command(capsys, "checkpoint", "tiny", "qwen2_5_omni", str(tmp_path / "mine"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"omni-graph: {tmp_path}/mine: exists; a checkpoint is built into a new folder\n"
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = command(capsys, "checkpoint", "tiny", "qwen2_5_omni", str(tmp_path / "file" / "tiny"))
    assert ran.code == 1
    assert ran.err == f"omni-graph: {tmp_path}/file/tiny: cannot be written: File exists\n"


@pytest.mark.parametrize("size", ["tiny", "bench"])
def test_an_unknown_family_is_a_usage_error(size: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "checkpoint", size, "gpt2", str(tmp_path / size))
    assert (ran.code, ran.out) == (2, "")
    assert "no family 'gpt2'; there are: qwen2_5_omni" in ran.err


def test_a_bench_checkpoint_is_not_written_over_what_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran = command(capsys, "checkpoint", "bench", "qwen2_5_omni", str(tmp_path))
    assert (ran.code, ran.err) == (1, f"omni-graph: {tmp_path}: exists; a checkpoint is built into a new folder\n")


def test_a_signal_leaves_no_half_of_one(tmp_path: Path) -> None:
    with Background(tmp_path, "checkpoint", "tiny", "qwen2_5_omni", "tiny") as build:
        build.until(lambda: any(tmp_path.iterdir()))  # its draft
        build.signal(signal.SIGTERM)
        assert (build.end(), build.err) == (130, "")
    assert list(tmp_path.iterdir()) == []
