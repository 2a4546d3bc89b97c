"""An actor that dies, hangs, cannot start or has no place: said with a reason, survived by the others, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import omni_graph as og
from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.ray_launcher import RayLauncher
from omni_graph.runtime.replica import Change, State
from omni_graph.spec import DeploySpec
from tests.runtime.fault_matrix import WORDS, Client, arm, epilogue, launch_speaking, replicas
from tests.runtime.graphs import HERE, chain, eventually, launch, words

pytestmark = pytest.mark.usefixtures("local_ray")


def pid_of(app: App) -> int:
    return int(app.run({"text": words("pid?")}, outputs=["half"])["half"].text)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_actor_fails_its_request_and_the_rest_go_on(number: signal.Signals) -> None:
    with launch(chain(), "ray", retries=0, stages={"a": {"replicas": 2}}) as app:
        held = app.open(outputs=["half"])
        held.write("text", words("pid?")[0])
        answer = held.next(timeout=20)
        assert answer is not None
        os.kill(int(answer.packet.text), number)
        with pytest.raises(og.RequestError) as error:
            held.next(timeout=20)
        assert error.value.code in ("replica_died", "link_lost") and error.value.stage == "a"
        for _ in range(10):
            assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"
    eventually(lambda: not _alive(int(answer.packet.text)))


def test_a_request_outlives_the_only_replica_of_a_stage() -> None:
    with launch(chain(), "ray") as app:
        handle = app.open(outputs=["out"])
        handle.write("text", words("one ")[0])
        first = handle.next(timeout=20)
        assert first is not None and first.packet.text == "ONE "
        (dead,) = app.status()["stages"]["a"]["replicas"]
        os.kill(dead["pid"], signal.SIGKILL)
        handle.write("text", words("two")[0])
        handle.end("text")
        assert "".join(event.packet.text for event in handle) == "TWO"
        (again,) = app.status()["stages"]["a"]["replicas"]
        assert (again["id"], again["restarts"], again["host"]) == ("a/0.1", 1, "127.0.0.1") and again["pid"] != dead[
            "pid"
        ]


def test_every_state_is_told_in_order() -> None:
    seen: list[Change] = []
    plan = make_plan(chain(), DeploySpec())
    with App(plan, Deployment(plan, RayLauncher(), on_change=seen.append)):
        pass
    states = [change.state for change in seen if change.name == "a/0.0"]
    assert states == [State.PLACING, State.LOADING, State.READY, State.STOPPED]
    assert {change.detail for change in seen if change.state is State.LOADING} == {"on 127.0.0.1"}


def test_a_step_that_hangs_is_ended_with_its_process() -> None:
    with launch(chain(), "ray", retries=0, stages={"a": {"replicas": 2, "max_step_s": 0.5}}) as app:
        with pytest.raises(og.RequestError, match=r"max_step_s is 0\.5") as error:
            app.run({"text": words("hang")}, outputs=["out"])
        assert (error.value.code, error.value.stage) == ("stuck", "a")
        assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"


def test_an_actor_without_files_is_replaced(tmp_path: Path) -> None:
    with launch_speaking("ray") as app:
        company = Client.open(app)
        company.say("with ")
        company.hear_answer()
        (victim,) = app.status()["stages"]["generator"]["replicas"]
        client = Client.open(app, {"generator": {"fault": "files", "arms": str(tmp_path)}})
        arm(tmp_path, 1)
        client.finish(WORDS)
        company.finish(WORDS)
        assert client.retries() <= 2 and company.retries() <= 1
        eventually(lambda: victim["pid"] not in {one["pid"] for one in replicas(app)})
        epilogue(app)


def test_a_node_that_cannot_start_says_why() -> None:
    with pytest.raises(og.LaunchError, match=r"a/0\.0 could not start: RuntimeError: told not to start") as error:
        launch(chain(fail_to_start=True), "ray")
    assert "last log lines" in str(error.value) and "Traceback" in str(error.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"cpu": 1000}, r"CPU: 1000 asked, the largest machine has \d+"),
        ({"gpu": 99, "cpu": 0.1}, r"GPU: 99 asked, the largest machine has \d+"),
        ({"memory": "900TB"}, r"memory: 9e\+14 asked"),
        ({"labels": {"pool": "moon"}}, r"no machine has the labels pool=moon; machines and their labels: 127\.0\.0\.1"),
    ],
)
def test_a_replica_that_fits_no_machine_is_refused_at_once(stage: dict, message: str) -> None:
    with pytest.raises(og.LaunchError, match=rf"b/0\.0 could not start: cannot be placed: {message}"):
        launch(chain(), "ray", stages={"b": stage})


def test_replicas_that_fit_alone_but_not_together_give_up_and_say_what_is_short() -> None:
    cores = os.cpu_count() or 1
    deploy = DeploySpec.model_validate({"place_timeout_s": 3.0, "stages": {"a": {"cpu": cores}, "b": {"cpu": cores}}})
    plan = make_plan(chain(), deploy)
    said: list[Change] = []
    with pytest.raises(og.LaunchError, match=r"not placed after 3 s: CPU: \d+ asked, no machine has more free than 0"):
        Deployment(plan, RayLauncher(), on_change=said.append)
    assert next(change.state for change in said if change.name == "b/0.0") is State.PLACING


def test_closing_ends_actors_and_files() -> None:
    app = launch(chain(), "ray")
    folder = Path(app._deployment.run_folder)
    pid = pid_of(app)
    assert (folder / "logs" / "a-0.0.log").exists()
    app.close()
    app.close()
    assert not folder.exists()
    eventually(lambda: not _alive(pid))


def test_actors_and_ray_end_when_the_launching_process_is_killed() -> None:
    """Ray's two agents tell a server that is gone for a minute before they leave too: docs/decisions/0011-ray.md."""
    script = (
        "import sys, psutil\n"
        f"sys.path.insert(0, {str(HERE.parent.parent)!r})\n"
        "from tests.runtime.graphs import chain, launch\n"
        "if __name__ == '__main__':\n"
        "    app = launch(chain(), 'ray')\n"
        "    children = psutil.Process().children(recursive=True)\n"
        "    print(*[child.pid for child in children if 'Agent' not in child.cmdline()[0]], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) >= 5  # Ray's server, its monitors, the raylet, and two replicas
    parent.kill()
    parent.wait(20)
    eventually(lambda: not any(_alive(pid) for pid in pids), within_s=30)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
