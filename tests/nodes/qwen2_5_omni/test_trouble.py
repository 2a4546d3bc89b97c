"""The rest of the fault matrix on the model: every stage hangs, dies by itself, loses its links, its files or its memory in
the middle of an answer, raises, is replaced or scaled. What another replica can mend costs a pause; what none can, that
request alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from omni_graph.spec import DeploySpec
from omni_graph.supervision import WITHIN_S
from tests.memory import confine
from tests.memory import little_memory as little_memory  # a fixture
from tests.nodes.qwen2_5_omni.apps import omni_graph_of
from tests.nodes.qwen2_5_omni.test_recovery import MESSAGES, STAGES, Answer, healthy
from tests.nodes.qwen2_5_omni.troubled import FOLDER, lay
from tests.runtime.graphs import eventually, held

pytestmark = pytest.mark.slow
# so long that all of these stages are still at work after AT packets; the others are done by then
PARAMS = {"thinker": {"max_tokens": 96, "temperature": 0.9}, "talker": {"max_tokens": 150}}
AT = {stage: 30 for stage in ("thinker", "talker", "codec_dit", "bigvgan")}
MAX_STEP_S = 10.0
LOADED_S = 90.0
# not all faults are met at once: without files a stage may have done its part before it ends; a cut may be heard twice
RETRIES = {"files": {0, 1, 2}, "cut out": {1, 2}, "cut off": {1, 2}}
RAISED = {
    "raise": ("node_failed", "told to fail"),
    "shape": ("node_failed", "could not be broadcast"),
    "numeric": ("numeric", "not finite numbers"),
}


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


@pytest.fixture(autouse=True)
def calm(app: App, folder: Path) -> Iterator[None]:
    """All is well, and no stage has died so often of late that two deaths more would open its circuit. What trouble a cell
    that failed has left goes with it."""
    assert app._deployment.replicas is not None
    stages = app._deployment.replicas._stages.values()
    eventually(lambda: well(app) and max(lately(stage.supervision._deaths) for stage in stages) < 2, LOADED_S)
    yield
    for file in folder.iterdir():
        file.unlink()


def of(app: App, stage: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = app.status()["stages"][stage]["replicas"]
    return found


def lately(deaths: Iterable[float]) -> int:
    return sum(time.monotonic() - at < WITHIN_S for at in deaths)


def well(app: App) -> bool:
    return healthy(app) and held(app) == 0


def answer(app: App, disturb: Callable[[], object] = lambda: None, at: int = 0) -> tuple[Answer, int]:
    """An answer, disturbed once ``at`` packets have come, and how often it was replayed."""
    eventually(lambda: well(app), LOADED_S)
    if at == 0:
        disturb()
    handle = app.start({"conversation": MESSAGES}, params=PARAMS, seed=7, deadline_s=240)
    made = Answer()
    try:
        for read, event in enumerate(handle, 1):
            made.read(event)
            if read == at:
                disturb()
    finally:
        handle.cancel()
    handle.timings()
    return made, handle.retries


@pytest.fixture(scope="module")
def undisturbed(app: App) -> Answer:
    made, retries = answer(app)
    assert retries == 0 and len(made.codes) > 40 and len(made.chunks) > 2
    return made


def is_answered_as(undisturbed: Answer, app: App) -> None:
    made, retries = answer(app)
    made.same_as(undisturbed)
    assert retries == 0


# ---- what another replica mends


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["spin", "deadlock", "gil", "exit", "cut out", "cut off", "files", "memory"])
def test_an_answer_survives(fault: str, stage: str, app: App, folder: Path, undisturbed: Answer) -> None:
    (victim,) = of(app, stage)
    made, retries = answer(app, lambda: lay(folder, stage, fault), AT.get(stage, 0))
    made.same_as(undisturbed)
    assert not any(folder.iterdir())
    assert retries in RETRIES.get(fault, {1})
    if fault != "cut out":  # after which its process is as good as before
        eventually(lambda: victim["pid"] not in {one["pid"] for one in of(app, stage)}, LOADED_S)
    eventually(lambda: well(app), LOADED_S)


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_survives_the_end_of_memory(
    stage: str, app: App, folder: Path, undisturbed: Answer, little_memory: Path
) -> None:
    (victim,) = of(app, stage)
    confine(app, victim, little_memory)
    made, retries = answer(app, lambda: lay(folder, stage, "swell"), AT.get(stage, 0))
    made.same_as(undisturbed)
    assert retries == 1
    (heir,) = of(app, stage)
    assert heir["last_end"].startswith("oom ")
    eventually(lambda: well(app), LOADED_S)


# ---- what none mends


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", RAISED)
def test_what_a_stage_raises_fails_that_answer_and_no_later_one(
    fault: str, stage: str, app: App, folder: Path, undisturbed: Answer
) -> None:
    (before,) = of(app, stage)
    with pytest.raises(og.RequestError) as error:
        answer(app, lambda: lay(folder, stage, fault), AT.get(stage, 0))
    code, message = RAISED[fault]
    assert (error.value.code, error.value.stage) == (code, stage)
    assert message in error.value.message
    is_answered_as(undisturbed, app)
    assert [one["pid"] for one in of(app, stage)] == [before["pid"]]


@pytest.mark.parametrize("stage", ["thinker", "codec_dit"])
def test_an_answer_that_takes_its_stage_down_again_is_poison_and_no_later_one_is(
    stage: str, app: App, folder: Path, undisturbed: Answer
) -> None:
    """Nobody else was in the second replica that it took down, so that is no accident."""
    with pytest.raises(og.RequestError) as error:
        answer(app, lambda: lay(folder, stage, "exit", times=2), AT[stage])
    assert (error.value.code, error.value.stage, error.value.retryable) == ("poison", stage, False)
    assert not any(folder.iterdir())
    is_answered_as(undisturbed, app)


# ---- changes


@pytest.mark.parametrize("stage", ["thinker", "codec_dit"])
def test_a_replacement_waits_for_the_answer_that_its_stage_is_in(stage: str, app: App, undisturbed: Answer) -> None:
    (old,) = of(app, stage)
    replaced: list[Future[None]] = []

    def replace() -> None:
        replaced.append(pool.submit(app.replace, stage, {}))
        eventually(lambda: [one["state"] for one in of(app, stage)] == ["draining", "ready"], LOADED_S)
        assert [one["requests"] for one in of(app, stage)] == [1, 0]

    with ThreadPoolExecutor(1) as pool:
        made, retries = answer(app, replace, AT[stage])
        replaced[0].result(LOADED_S)
    made.same_as(undisturbed)
    assert retries == 0
    (new,) = of(app, stage)
    assert new["revision"] == old["revision"] + 1 and new["pid"] != old["pid"]
    is_answered_as(undisturbed, app)


@pytest.mark.parametrize("stage", ["thinker", "codec_dit"])
def test_an_answer_does_not_notice_that_its_stage_is_scaled(stage: str, app: App, undisturbed: Answer) -> None:
    def scale() -> None:
        app.scale(stage, 2)
        assert [one["requests"] for one in of(app, stage)] == [1, 0]
        app.scale(stage, 1)

    (old,) = of(app, stage)
    made, retries = answer(app, scale, AT[stage])
    made.same_as(undisturbed)
    assert retries == 0
    assert [one["pid"] for one in of(app, stage)] == [old["pid"]]
