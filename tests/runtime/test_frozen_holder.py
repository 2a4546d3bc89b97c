"""The process that holds the Gateway and the supervisor is stopped for seconds, as by a debugger or a paused machine.

A short stop is not noticed. In a long one the replicas have lost their Gateway, so requests are replayed on new ones; either
way each ends once, whole, and nothing is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from omni_graph.runtime.processes import is_stopped
from omni_graph.spec import DeploySpec
from tests.runtime.fault_matrix import Three, epilogue, launch_speaking, replicas
from tests.runtime.graphs import HERE, eventually

SHORT_S, LONG_S = 1.5, 5.0  # than the heartbeats of one host allow
END_S = 120.0
HOLD = "from tests.runtime.test_frozen_holder import hold; hold()"


def hold() -> None:
    """In a process of its own: three requests under way, one at each moment; says so, and goes on when it is told to.

    Then it says how often each was replayed, and whether the replicas are those of before.
    """
    with tempfile.TemporaryDirectory() as folder, launch_speaking("processes") as app:
        three = Three.begin(app, Path(folder))
        before = {one["pid"] for one in replicas(app)}
        print(app.run_folder, three.gate, flush=True)
        sys.stdin.readline()
        retries = three.finish()
        epilogue(app)
        print(*retries, {one["pid"] for one in replicas(app)} == before, flush=True)


def stop_for(process: subprocess.Popen[str], seconds: float, gates: Iterable[str]) -> None:
    """The step that a request is in ends meanwhile, if it waits for a gate."""
    os.kill(process.pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(process.pid))
    for gate in gates:
        Path(gate).touch()
    until = time.monotonic() + seconds
    eventually(lambda: not is_stopped(process.pid) or time.monotonic() > until, within_s=2 * seconds)
    assert is_stopped(process.pid)
    os.kill(process.pid, signal.SIGCONT)


def outlive_a_stop(program: str, seconds: float) -> None:
    """``program`` holds three requests as ``hold`` does: however long it was stopped, it goes on, and leaves nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=HERE.parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        try:
            run_folder, *gates = holder.stdout.readline().split()
            stop_for(holder, seconds, gates)
            said, _ = holder.communicate("go on\n", timeout=END_S)
        finally:
            holder.kill()
    assert holder.returncode == 0
    *retries, same = said.split()
    if seconds == SHORT_S:
        assert (retries, same) == (["0", "0", "0"], "True")
    assert len(retries) == 3 and max(map(int, retries)) <= DeploySpec().retries
    assert not Path(run_folder).exists()


@pytest.mark.parametrize("seconds", [SHORT_S, LONG_S])
def test_a_holder_that_was_stopped_goes_on(seconds: float) -> None:
    outlive_a_stop(HOLD, seconds)
