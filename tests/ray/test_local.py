"""A local Ray is private to its user: loopback, a token, its own folder; the caller's process is left as it was."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import ray

import omni_graph as og
from omni_graph.runtime import ray_cluster
from omni_graph.runtime.deployment import make_launcher
from omni_graph.runtime.ray_cluster import RayCluster
from tests.nodes.qwen2_5_omni import test_spread as qwen
from tests.nodes.qwen2_5_omni.apps import launch as launch_qwen
from tests.ray.graphs import asked, where
from tests.runtime.graphs import launch

pytestmark = pytest.mark.usefixtures("local_ray")
JOBS = "/api/job_agent/jobs/"
THREE_WORKERS = {
    **{name: {"with": "thinker"} for name in ("frontend", "audio_encoder", "vision_encoder", "interleaver")},
    "bigvgan": {"with": "codec_dit"},
}


def test_environment_and_threads_are_set_before_the_node_is_loaded() -> None:
    stages = {"a": {"threads": 3, "nice": 4, "env": {"MINE": "yes"}}, "b": {"threads": 1}}
    with launch(where("a", "b"), "ray", stages=stages) as app:
        first, second = asked(app, "a"), asked(app, "b")
    assert first["env"] | {"RAY_AUTH_MODE": ""} == {
        "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive", "MINE": "yes", "RAY_AUTH_MODE": "",
    }  # fmt: skip
    assert (second["env"]["OMP_NUM_THREADS"], second["env"]["MINE"]) == ("1", None)
    assert first["pid"] != second["pid"]
    assert first["nice"] == second["nice"] + 4


def test_nothing_listens_beyond_loopback() -> None:
    with launch(where("a"), "ray") as app:
        assert asked(app, "a")["env"]["RAY_AUTH_MODE"] == "token"
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [one for process in ours for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
    hosts = {one.laddr.ip.removeprefix("::ffff:") for one in listening}
    assert hosts == {"127.0.0.1"}, listening


def test_whoever_has_no_token_reads_metrics_and_health_and_nothing_else() -> None:
    answers = [_ask(port, path) for port in _agents() for path in (JOBS, "/logs", "/metrics")]
    assert sum(status == 401 for status, _ in answers) >= 4
    assert all(body.startswith("# HELP") for status, body in answers if status == 200)


def test_whoever_has_no_token_submits_no_job() -> None:
    """Whoever has it is told that this is the place to post one."""
    job = json.dumps({"entrypoint": "true"}).encode()
    guarded = [port for port in _agents() if _ask(port, JOBS, job)[0] == 401]
    assert guarded and {_ask(port, JOBS, job, "0" * 64)[0] for port in guarded} == {403}
    assert ray_cluster._started.folder is not None
    token = Path(ray_cluster._started.folder.path, "token").read_text()
    assert 405 in {_ask(port, JOBS, token=token)[0] for port in guarded}


def _agents() -> set[int]:
    """The ports of Ray's agents."""
    agents = [one for one in psutil.Process().children(recursive=True) if one.name().endswith("Agent")]
    return {one.laddr.port for agent in agents for one in agent.net_connections() if one.status == psutil.CONN_LISTEN}


def _ask(port: int, path: str, body: bytes | None = None, token: str = "") -> tuple[int, str]:
    """Status and beginning of the answer, to a POST where there is a body; 0 where the port does not speak HTTP/1."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(20).decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, http.client.HTTPException):
        return 0, ""


def test_the_token_and_all_of_rays_files_are_ours_alone() -> None:
    assert ray_cluster._started.folder is not None
    folder = Path(ray_cluster._started.folder.path)
    assert folder.name.startswith("omni-graph-ray-")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert session.is_relative_to(folder)


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_without_the_token_ray_refuses(token: str) -> None:
    script = (
        "import sys; from ray._raylet import GcsClient\n"
        "try: print(GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None))\n"
        "except Exception as error: print('refused:', type(error).__name__)"
    )
    environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", script, ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused: ") and "Auth" in done.stdout, done.stdout + done.stderr


def test_the_environment_is_left_as_it_was() -> None:
    assert "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_a_launch_beside_another_shares_its_ray_and_does_not_end_it() -> None:
    before = ray.get_runtime_context().get_node_id()
    first, second = RayCluster(None), RayCluster(None)
    assert first.node_id == second.node_id == before and first.local and first.is_one_machine()
    first.close()
    first.close()
    second.close()
    assert ray.is_initialized() and ray.get_runtime_context().get_node_id() == before


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [one for one in sys.modules if one.startswith("omni_graph.runtime.ray")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(og.LaunchError, match=r"pip install 'omni-graph\[ray\]'"):
        make_launcher("ray")


def test_the_whole_model_gives_the_answer_that_threads_give(tmp_path_factory: pytest.TempPathFactory) -> None:
    from omni_nodes.qwen2_5_omni.tiny import build_tiny

    folder = tmp_path_factory.mktemp("tiny") / "default"
    build_tiny(folder)
    with launch_qwen(folder, "low_latency") as app:
        expected = qwen.answer(app, 1)
    with launch_qwen(folder, "low_latency", "ray", stages=THREE_WORKERS) as app:
        qwen.answer(app, 1).same_as(expected)
