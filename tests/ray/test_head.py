"""The head of a Ray dies or freezes under three requests: packets do not pass through it, so nobody who is served notices.

In a process of its own, because Ray ends a process that is without its head for a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from omni_graph.runtime import ray_cluster
from omni_graph.runtime.app import App
from omni_graph.runtime.processes import is_stopped
from tests.runtime.fault_matrix import WORDS, Client, Three, epilogue, launch_speaking, whole_answer
from tests.runtime.graphs import HERE, eventually, held

END_S = 180.0
HEAD = "gcs_server"


class Speaker:
    """The toy, as the head's faults find it; the model is another (tests/nodes/qwen2_5_omni/around.py).

    ``answers``: how many follow, all within the minute that Ray lets us live without its head.
    """

    answers = 20

    def launch(self) -> App:
        return launch_speaking("ray")

    def begin(self, app: App, folder: Path) -> Three:
        """Three requests, one at each moment."""
        return Three.begin(app, folder)

    def answer(self, app: App) -> None:
        """One that nothing may disturb."""
        whole_answer(app)

    def survive(self, app: App) -> None:
        """An answer in the middle of which a stage is killed; and all that must hold after it."""
        client = Client.open(app)
        client.say(WORDS[0])
        client.hear_answer()
        (replica,) = app.status()["stages"]["generator"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)
        client.finish(WORDS[1:])
        assert client.retries() == 1
        epilogue(app)


def serve(fault: str, seconds: float, speaker: Speaker) -> None:
    """A speaker on a local Ray, whose head meets the fault under three requests; prints what must be gone at the end."""
    with tempfile.TemporaryDirectory() as folder, speaker.launch() as app:
        three = speaker.begin(app, Path(folder))
        ours = psutil.Process().children(recursive=True)
        (head,) = [one for one in ours if one.name() == HEAD]
        assert ray_cluster._started.folder is not None
        print(ray_cluster._started.folder.path, app.run_folder)
        agents = [one.pid for one in ours if "Agent" in one.cmdline()[0]]
        print(*(one.pid for one in ours if one.pid not in agents))
        print(*agents, flush=True)
        if fault == "kill":  # for good
            head.kill()
            eventually(lambda: not head.is_running() or head.status() == psutil.STATUS_ZOMBIE)
            serve_on(app, three, speaker)
            return
        until = time.monotonic() + seconds
        os.kill(head.pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(head.pid))
        serve_on(app, three, speaker)
        threading.Event().wait(max(0.0, until - time.monotonic()))
        assert is_stopped(head.pid)
        os.kill(head.pid, signal.SIGCONT)  # it is there again for what needs it
        speaker.survive(app)


def serve_on(app: App, three: Three, speaker: Speaker) -> None:
    """Who was there completes undisturbed, and so do the next."""
    three.release()
    assert three.finish() == [0, 0, 0]
    for _ in range(speaker.answers):
        speaker.answer(app)
    eventually(lambda: held(app) == 0)


@pytest.mark.parametrize(
    ("fault", "seconds"), [("kill", 0.0), ("freeze", 5.0), pytest.param("freeze", 30.0, marks=pytest.mark.slow)]
)
def test_what_runs_does_not_notice_what_becomes_of_rays_head(fault: str, seconds: float) -> None:
    outlive("from tests.ray.test_head import serve, Speaker; speaker = Speaker()", fault, seconds)


def outlive(imports: str, fault: str, seconds: float) -> None:
    """Nor does it take longer to close than Ray leaves a process without its head, which is the child's exit code."""
    program = f"{imports}; serve({fault!r}, {seconds}, speaker)"
    command = [sys.executable, "-c", program]
    served = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=END_S, check=False)
    assert served.returncode == 0, served.stdout + served.stderr
    folders, pids, agents = (line.split() for line in served.stdout.splitlines())
    assert len(folders) == 2 and not any(Path(one).exists() for one in folders)
    assert len(pids) >= 6  # Ray's head, its monitors, the raylet, and the replicas
    if fault == "kill":
        leave(map(int, agents))
    eventually(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids + agents))


def leave(agents: Iterable[int]) -> None:
    """Ray's two agents tell a server that is gone for a minute before they leave too (docs/decisions/0011-ray.md), and hold
    the port meanwhile that the next Ray's want."""
    for pid in agents:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
