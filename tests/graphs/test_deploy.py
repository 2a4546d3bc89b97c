"""The deploy files that come with the repository fit the packaged graph, and say what their comments say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen2_5OmniTalkerConfig, Qwen2_5OmniThinkerConfig

from omni_graph.load import load_deploy, load_graph
from omni_graph.plan import Plan, make_plan
from omni_graph.runtime.app import launch
from omni_graph.runtime.replica import State
from omni_graph.runtime.specs import host_spec, hosts_of, threads_each
from tests.cli.command import command
from tests.graphs.documents import carry_out

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy"
README = FOLDER / "README.md"
FILES = sorted(FOLDER.glob("*.yaml"))


def planned(name: str, *settings: str) -> Plan:
    return make_plan(load_graph("qwen2_5_omni", settings=settings), load_deploy(FOLDER / f"{name}.yaml"))


def comments(name: str) -> str:
    """What the file says of itself, as one line."""
    lines = (line.partition("#")[2].strip() for line in (FOLDER / f"{name}.yaml").read_text().splitlines())
    return " ".join(line.removesuffix("\\") for line in lines)


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


# ---- one_h200


def row_bytes(config: Qwen2_5OmniThinkerConfig | Qwen2_5OmniTalkerConfig) -> int:
    """Keys and values of one token in bfloat16, and the Thinker's hidden state."""
    model = config.get_text_config()
    width = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    hidden = model.hidden_size if isinstance(config, Qwen2_5OmniThinkerConfig) else 0
    return (2 * model.num_hidden_layers * model.num_key_value_heads * width + hidden) * 2


def test_one_h200_shares_one_gpu_and_no_more() -> None:
    plan = planned("one_h200")
    hosts = hosts_of(plan, plan.stages)
    gpus = {host: plan.deploy.stage(host).gpu * plan.deploy.stage(host).replicas for host in hosts}
    assert gpus.pop("frontend") == 0
    assert min(gpus.values()) > 0 and sum(gpus.values()) == pytest.approx(1.0)
    beside = {name: stage.host for name, stage in plan.stages.items() if stage.host != name}
    assert beside == {
        "audio_encoder": "thinker",
        "vision_encoder": "thinker",
        "interleaver": "thinker",
        "bigvgan": "codec_dit",
    }


def test_one_h200_has_a_slot_and_the_kv_it_says_for_every_request() -> None:
    """By transformers' default configuration, which is of the 7B or larger."""
    plan, said = planned("one_h200"), comments("one_h200")
    assert {plan.deploy.stage(host).streams for host in hosts_of(plan, plan.stages)} == {plan.deploy.max_requests}
    for name, config, words in (
        ("thinker", Qwen2_5OmniThinkerConfig(), r"([\d,]+) tokens for each of 32 requests"),
        ("talker", Qwen2_5OmniTalkerConfig(), r"([\d,]+) tokens for each, prompt"),
    ):
        promised = re.search(words, said)
        kv_bytes = plan.stages[name].spec.kv_bytes
        assert promised is not None and kv_bytes is not None
        tokens = kv_bytes // row_bytes(config) // plan.deploy.max_requests
        assert int(promised[1].replace(",", "")) <= tokens < 1.1 * int(promised[1].replace(",", ""))
    total = sum(stage.spec.kv_bytes or 0 for stage in plan.stages.values())
    assert f"the two KV caches {total >> 30} GiB" in said


def test_the_command_above_one_h200_sets_what_is_there() -> None:
    typed = re.search(r"omni-graph up .*?(?=  `gpu`)", comments("one_h200"))
    assert typed is not None
    words = shlex.split(typed[0])
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    plan = planned("one_h200", *settings)
    assert {plan.stages[name].config["max_batch"] for name in ("thinker", "talker")} == {plan.deploy.max_requests}
    assert all(plan.stages[name].config["compile"] is True for name in ("talker", "codec_dit"))


ON_ONE_GPU = """
import sys, omni_graph as og
graph, deploy = og.load_graph("qwen2_5_omni", parameters={"checkpoint": sys.argv[1]}), og.load_deploy(sys.argv[2])
with og.launch(graph, deploy) as app:
    import ray
    params = {"thinker": {"max_tokens": 8}, "talker": {"max_tokens": 60}}
    result = app.run({"conversation": [{"role": "user", "content": "Say something."}]}, params=params)
    print(len(result["text"].token_ids), len(result["speech"].samples) > 0, ray.available_resources().get("GPU", 0.0))
"""


@pytest.mark.slow
def test_one_h200_finds_its_place_and_answers(tmp_path: Path, tiny_folder: Path) -> None:
    """On a Ray that believes in one GPU; what computes takes the CPU, and a KV cache that fits into it."""
    deploy = tmp_path / "one_gpu.yaml"
    deploy.write_text(re.sub(r"kv_bytes: \d+GiB", "kv_bytes: 64MiB", (FOLDER / "one_h200.yaml").read_text()))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ON_ONE_GPU, str(tiny_folder), str(deploy)],
        env=environment | {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1, "CPU": 4}'},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "8 True 0.0\n", done.stderr


# ---- the page beside them


def test_every_block_of_the_page_runs(tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(FOLDER)
    assert carry_out(README, tmp_path) >= 2


def test_the_page_lists_every_file_and_its_launcher() -> None:
    rows = re.findall(r"^\| \[(\w+)\.yaml\]\(\1\.yaml\) \|.*\| `(\w+)` \|$", README.read_text(), re.MULTILINE)
    assert dict(rows) == {path.stem: load_deploy(path).launcher for path in FILES}


def test_the_page_tells_every_field_of_status_and_every_state() -> None:
    """Of a deployment as it is, so that a new field is told of."""
    with launch(load_graph("words")) as app:
        status = app.status()
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", README.read_text()))))
    replica = status["stages"]["join"]["replicas"][0]
    assert {*status["requests"], *status["stages"]["join"], *replica} - {"id", "pid", "host"} <= told
    assert {str(state) for state in State} | {"draining"} <= told
