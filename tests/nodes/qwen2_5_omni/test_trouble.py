"""The rest of the fault matrix on the model: every stage hangs, dies by itself, loses its links, its files or its memory in
the middle of an answer, or raises. What another replica can mend costs a pause; what none can, that request alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from omni_graph.spec import DeploySpec
from tests.memory import confine
from tests.memory import little_memory as little_memory  # a fixture
from tests.nodes.qwen2_5_omni.apps import omni_graph_of
from tests.nodes.qwen2_5_omni.test_recovery import MESSAGES, SAMPLED, STAGES, Answer, healthy
from tests.nodes.qwen2_5_omni.troubled import FOLDER, lay
from tests.runtime.graphs import eventually, held

pytestmark = pytest.mark.slow
AT = {stage: 30 for stage in ("thinker", "talker", "codec_dit", "bigvgan")}  # packets; the others are done by then
MAX_STEP_S = 20.0
LOADED_S = 90.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trouble")


@pytest.fixture(scope="module")
def app(tiny_folder: Path, folder: Path) -> Iterator[App]:
    graph = omni_graph_of(tiny_folder, "low_latency")
    nodes = {
        name: node.model_copy(update={"uses": f"./troubled.py:{node.uses.partition(':')[2]}"})
        for name, node in graph.spec.nodes.items()
    }
    spec = graph.spec.model_copy(update={"nodes": nodes})
    stages = {name: {"max_step_s": MAX_STEP_S, "env": {FOLDER: str(folder)}} for name in STAGES}
    deploy = DeploySpec.model_validate({"stages": stages})
    with og.launch(Graph(spec, Path(__file__).parent), deploy, "processes") as running:
        yield running


def answer(app: App, disturb: Callable[[], None], at: int) -> tuple[Answer, int]:
    """An answer, disturbed once ``at`` packets have come, and how often it was replayed."""
    eventually(lambda: healthy(app), LOADED_S)
    if at == 0:
        disturb()
    handle = app.start({"conversation": MESSAGES}, params=SAMPLED, seed=7, deadline_s=240)
    made = Answer()
    for read, event in enumerate(handle, 1):
        made.read(event)
        if read == at:
            disturb()
    handle.timings()
    return made, handle.retries


@pytest.fixture(scope="module")
def undisturbed(app: App) -> Answer:
    made, retries = answer(app, lambda: None, -1)
    assert retries == 0 and len(made.codes) > 40 and len(made.chunks) > 2
    return made


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["spin", "gil", "exit", "cut off", "files", "memory"])
def test_an_answer_survives(fault: str, stage: str, app: App, folder: Path, undisturbed: Answer) -> None:
    made, retries = answer(app, lambda: lay(folder, stage, fault), AT.get(stage, 0))
    made.same_as(undisturbed)
    assert not any(folder.iterdir()) and (retries == 1 or fault == "files")
    eventually(lambda: healthy(app) and held(app) == 0, LOADED_S)


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_survives_the_end_of_memory(
    stage: str, app: App, folder: Path, undisturbed: Answer, little_memory: Path
) -> None:
    def disturb() -> None:
        (victim,) = app.status()["stages"][stage]["replicas"]
        confine(app, victim, little_memory)
        lay(folder, stage, "swell")

    made, retries = answer(app, disturb, AT.get(stage, 0))
    made.same_as(undisturbed)
    assert retries == 1
    (heir,) = app.status()["stages"][stage]["replicas"]
    assert heir["last_end"].startswith("oom ")
    eventually(lambda: healthy(app) and held(app) == 0, LOADED_S)


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_raises_fails_that_answer_and_no_later_one(
    stage: str, app: App, folder: Path, undisturbed: Answer
) -> None:
    before = app.status()["stages"][stage]["replicas"]
    with pytest.raises(og.RequestError) as error:
        answer(app, lambda: lay(folder, stage, "raise"), AT.get(stage, 0))
    assert (error.value.code, error.value.stage) == ("node_failed", stage)
    assert "told to fail" in error.value.message
    eventually(lambda: held(app) == 0, LOADED_S)
    made, retries = answer(app, lambda: None, -1)
    made.same_as(undisturbed)
    after = app.status()["stages"][stage]["replicas"]
    assert retries == 0 and [one["pid"] for one in after] == [one["pid"] for one in before]
