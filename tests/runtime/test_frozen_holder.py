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
        print(three.gate, app.run_folder, flush=True)
        sys.stdin.readline()
        retries = three.finish()
        epilogue(app)
        print(*retries, {one["pid"] for one in replicas(app)} == before, flush=True)


def stop_for(process: subprocess.Popen[str], seconds: float, gate: Path) -> None:
    """The step that a request is in ends meanwhile."""
    os.kill(process.pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(process.pid))
    gate.touch()
    until = time.monotonic() + seconds
    eventually(lambda: not is_stopped(process.pid) or time.monotonic() > until, within_s=2 * seconds)
    assert is_stopped(process.pid)
    os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("seconds", [SHORT_S, LONG_S])
def test_a_holder_that_was_stopped_goes_on(seconds: float) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, cwd=HERE.parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            gate, run_folder = holder.stdout.readline().split()
            stop_for(holder, seconds, Path(gate))
            said, _ = holder.communicate("go on\n", timeout=END_S)
        finally:
            holder.kill()
    assert holder.returncode == 0
    *retries, same = said.split()
    if seconds == SHORT_S:
        assert (retries, same) == (["0", "0", "0"], "True")
    assert len(retries) == 3 and max(map(int, retries)) <= DeploySpec().retries
    assert not Path(run_folder).exists()
