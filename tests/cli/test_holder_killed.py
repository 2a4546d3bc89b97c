"""The process that holds a deployment is ended at once, with a request at each moment of the fault matrix.

Their callers hear of it in one line, every process of the deployment ends, and the next holder removes the files.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import soundfile

from omni_graph.cli.places import find
from omni_graph.cli.remote import Remote
from omni_graph.errors import OmniGraphError
from omni_graph.runtime.control import MAX_BODY
from tests.cli.background import Background
from tests.cli.test_up import Held
from tests.cli.test_up import state as state  # a fixture
from tests.memory import little_memory as little_memory  # a fixture
from tests.memory import starve
from tests.runtime.fault_matrix import SPEAKING, arm
from tests.runtime.graphs import eventually
from tests.runtime.speech import CHUNK, TOKENS_A_WORD

WORD = ("--input", "words=how")
SAMPLES = TOKENS_A_WORD * CHUNK + CHUNK // 2  # that go with it
DEPLOY = "max_requests: 2\nstages: {encoder: {max_step_s: 300}, vocoder: {max_step_s: 300}}\n"
GONE = "omni-graph: closed: the deployment went away in the middle of the answer\n"


class Scene:
    """Holders of the speaking toy in one temporary folder, and callers of theirs, all in processes of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], stack: ExitStack) -> None:
        self._folder, self._capsys, self._stack = folder, capsys, stack
        self._tmp: Path | None = None
        (folder / "deploy.yaml").write_text(DEPLOY)

    def hold(self) -> Held:
        words = ("up", str(SPEAKING), "--deploy", "deploy.yaml", "--launcher", "processes")
        held = Held(self._stack.enter_context(Background(self._folder, *words, tmp=self._tmp)), self._capsys)
        self._tmp = held.background.tmp
        return held

    def ask(self, held: Held, stage: str = "") -> Background:
        """One word. In ``stage`` it waits for ever; returns once it does."""
        arms = self._folder / f"arms-{stage}"
        arms.mkdir()
        arm(arms, 1)
        trouble = {"fault": f"wait {self._folder / 'never'}", "arms": arms}
        params = [f"--param={stage}.{key}={value}" for key, value in trouble.items() if stage]
        caller = Background(self._folder, "run", "--url", held.url, *WORD, f"--speech={stage}.wav", *params)
        self._stack.enter_context(caller)
        if stage:
            caller.until(lambda: not any(arms.iterdir()))
        return caller


@pytest.fixture
def scene(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield Scene(tmp_path, capsys, stack)


def is_there(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(held: Held, group: Path | None, state: Path) -> None:
    """At once; with ``group`` by the kernel, as soon as it wants memory."""
    holder = held.background.process
    if group is None:
        os.kill(holder.pid, signal.SIGKILL)
    else:
        remote = Remote(find(held.url, None, state))
        starve(holder.pid, group)
        with pytest.raises(OmniGraphError, match="no deployment answers"):
            remote.post("/scale", stage="x" * (MAX_BODY // 2), replicas=1)
    assert held.background.end() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["killed", "out of memory"])
def test_a_holder_that_is_ended_takes_its_deployment_along(
    how: str, scene: Scene, state: Path, request: pytest.FixtureRequest
) -> None:
    group = request.getfixturevalue("little_memory") if how == "out of memory" else None
    held = scene.hold()
    heard = scene.ask(held, "vocoder")
    assert heard.read(1).isdigit()  # after the first output
    callers = [heard, scene.ask(held, "encoder"), scene.ask(held)]
    eventually(lambda: held.status()["requests"]["waiting"] == 1)
    holder = held.background.process
    processes = psutil.Process(holder.pid).children(recursive=True)
    assert len(processes) >= 3
    end(held, group, state)
    assert [(caller.end(), caller.err) for caller in callers] == [(1, GONE)] * 3
    eventually(lambda: not any(map(is_there, processes)))

    run, pythons = sorted(held.background.tmp.iterdir())  # the second is multiprocessing's, which never sweeps
    assert held.file.parent == run
    heir = scene.hold()
    assert not run.exists()
    for _ in range(20):
        ran = heir.command("run", *WORD)
        assert ran.code == 0 and len(ran.out.split()) == TOKENS_A_WORD
        assert soundfile.read("speech.wav")[0].shape == (SAMPLES,)
    heir.background.signal(signal.SIGTERM)
    assert heir.background.end() == 0
    eventually(lambda: heir.background.left() == [pythons.name])
