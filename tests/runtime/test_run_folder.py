"""What a killed launcher leaves behind goes with the next launch; nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from omni_graph.links import folders
from omni_graph.runtime.deployment import PREFIX
from omni_graph.runtime.run_folder import LOCK, RunFolder, sweep
from tests.runtime.graphs import HERE

LAUNCHER = f"""
import sys
sys.path.insert(0, {str(HERE.parent.parent)!r})
from tests.runtime.graphs import chain, launch
app = launch(chain(), "processes")
print(app.run_folder, flush=True)
sys.stdin.read()
"""


@contextmanager
def launcher(folder: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a deployment whose run folder is in ``folder``, and that run folder."""
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": folder},
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def left_behind(parent: Path, name: str) -> Path:
    """As a killed process leaves it."""
    folder = parent / name
    folder.mkdir(mode=0o700)
    (folder / LOCK).touch()
    return folder


def test_the_folder_of_a_killed_launcher_goes_and_that_of_a_living_one_stays() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="og-") as folder,
        launcher(folder) as (_, living),
    ):  # short: sockets lie in it
        with launcher(folder) as (killed, stale):
            killed.kill()
            killed.wait(20)
            assert (stale / "logs").is_dir()
        with launcher(folder) as (_, newest):
            assert set(Path(folder).glob(f"{PREFIX}*")) == {living, newest}
            assert (living / "sockets").is_dir()


def test_only_what_is_ours_by_name_and_by_lock_is_removed(tmp_path: Path) -> None:
    stale = left_behind(tmp_path, "mine-stale")
    (stale / "deeper").mkdir()
    open_to_others = left_behind(tmp_path, "mine-open")
    open_to_others.chmod(0o755)
    elsewhere = left_behind(tmp_path, "elsewhere")
    link = tmp_path / "mine-link"
    link.symlink_to(elsewhere)
    being_made = tmp_path / "mine-new"
    being_made.mkdir(mode=0o700)
    file = tmp_path / "mine-file"
    file.touch()
    held = RunFolder("mine-", str(tmp_path))
    assert set(tmp_path.iterdir()) == {open_to_others, elsewhere, link, being_made, file, Path(held.path)}
    held.remove()
    held.remove()
    assert not Path(held.path).exists()


def test_nothing_of_another_user_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = left_behind(tmp_path, "mine-theirs")
    us = os.geteuid()
    monkeypatch.setattr(folders.os, "geteuid", lambda: us + 1)
    sweep("mine-", str(tmp_path))
    assert (theirs / LOCK).exists()


def test_a_launch_does_not_look_for_ever(tmp_path: Path) -> None:
    left_behind(tmp_path, "mine-stale")
    sweep("mine-", str(tmp_path), within_s=-1.0)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine-stale"]
    sweep("mine-", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_must_not_be_listed_is_one_to_launch_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(parent: str) -> None:
        raise PermissionError(13, "Permission denied", parent)

    with monkeypatch.context() as patched:
        patched.setattr("omni_graph.runtime.run_folder.os.scandir", scandir)
        folder = RunFolder("mine-", str(tmp_path))
    assert list(tmp_path.iterdir()) == [Path(folder.path)]
    folder.remove()
