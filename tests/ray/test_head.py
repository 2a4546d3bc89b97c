"""The head of a Ray dies in the middle of an answer: packets do not pass through it, so nobody who is served notices.

In a process of its own, because Ray ends a process that is without its head for a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from omni_graph.runtime import ray_cluster
from tests.runtime.fault_matrix import WORDS, Client, launch_speaking, whole_answer
from tests.runtime.graphs import HERE, eventually, held

SERVE = "from tests.ray.test_head import serve; serve()"
ANSWERS = 20
END_S = 180.0
HEAD = "gcs_server"


def serve() -> None:
    """A speaker on a local Ray, whose head is killed between two words; prints what must be gone at the end.

    Ray's two agents tell a server that is gone for a minute before they leave too: docs/decisions/0011-ray.md.
    """
    with launch_speaking("ray") as app:
        client = Client.open(app)
        client.say(WORDS[0])
        client.hear_answer()
        ours = psutil.Process().children(recursive=True)
        (head,) = [one for one in ours if one.name() == HEAD]
        assert ray_cluster._started.folder is not None
        print(ray_cluster._started.folder.path, app.run_folder)
        print(*(one.pid for one in ours if "Agent" not in one.cmdline()[0]), flush=True)
        os.kill(head.pid, signal.SIGKILL)
        eventually(lambda: not head.is_running() or head.status() == psutil.STATUS_ZOMBIE)
        client.finish(WORDS[1:])
        assert client.retries() == 0
        for _ in range(ANSWERS):
            whole_answer(app)
        eventually(lambda: held(app) == 0)


@pytest.mark.slow
def test_what_runs_does_not_notice_that_rays_head_is_dead() -> None:
    """Nor does it take longer to close than Ray leaves a process without its head, which is the child's exit code."""
    root = HERE.parent.parent
    served = subprocess.run(
        [sys.executable, "-c", SERVE], cwd=root, capture_output=True, text=True, timeout=END_S, check=False
    )
    assert served.returncode == 0, served.stdout + served.stderr
    folders, pids = (line.split() for line in served.stdout.splitlines())
    assert len(folders) == 2 and not any(Path(one).exists() for one in folders)
    assert len(pids) >= 6  # Ray's head, its monitors, the raylet, and three replicas
    eventually(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids))
