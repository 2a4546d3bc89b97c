"""The deploy files that come with the repository fit the packaged graph, and say what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_graph.load import load_deploy, load_graph
from omni_graph.plan import Plan, make_plan
from omni_graph.runtime.specs import host_spec, hosts_of, threads_each
from tests.cli.command import command

FOLDER = Path(__file__).parents[2] / "deploy"
FILES = sorted(FOLDER.glob("*.yaml"))


def planned(name: str) -> Plan:
    return make_plan(load_graph("qwen2_5_omni"), load_deploy(FOLDER / f"{name}.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_deploy_file_is_sound_and_gives_no_note(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "check", "qwen2_5_omni", "--deploy", str(path))
    assert ran.code == 0, ran.err
    assert f"launcher {load_deploy(path).launcher}," in ran.out and "note:" not in ran.out
    assert load_deploy(path).deploy == path.stem


def replicas(plan: Plan) -> dict[str, int]:
    """Replica name -> compute threads, as the launcher gets them."""
    hosts = hosts_of(plan, plan.stages)
    return {
        f"{host}/{index}.0": host_spec(plan, host, "memory:", "", threads_each(plan, hosts), "INFO").threads
        for host in hosts
        for index in range(plan.deploy.stage(host).replicas)
    }


def test_local_is_one_process_a_stage_but_the_interleavers() -> None:
    plan = planned("local")
    assert sorted(replicas(plan)) == sorted(f"{name}/0.0" for name in plan.stages if name != "interleaver")
    assert plan.stages["interleaver"].host == "thinker"


def test_local_replicas_doubles_what_makes_sound() -> None:
    started = replicas(planned("local_replicas"))
    assert {name for name in started if name.endswith("/1.0")} == {"codec_dit/1.0", "bigvgan/1.0"}
    assert {started[name] for name in ("thinker/0.0", "talker/0.0", "codec_dit/1.0", "bigvgan/0.0")} == {2}


def test_two_nodes_keeps_understanding_and_speaking_apart() -> None:
    plan = planned("ray_two_nodes")
    pools = {
        host: host_spec(plan, host, "", "", 1, "INFO").placement.labels["pool"] for host in hosts_of(plan, plan.stages)
    }
    assert pools == {"frontend": "understand", "thinker": "understand", "talker": "speak", "codec_dit": "speak"}
