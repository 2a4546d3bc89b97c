"""The model over two hosts, its stages in turn here and there: transformers' answers, also after kills and cuts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from omni_nodes.qwen2_5_omni.tiny import build_tiny
from tests.nodes.qwen2_5_omni.apps import omni_graph_of
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.test_parity import CASES, check
from tests.nodes.qwen2_5_omni.test_recovery import MESSAGES, SAMPLED, STAGES, Answer, healthy
from tests.ray.hosts import HERE, THERE, TwoHosts, run_on
from tests.ray.hosts import hosts as hosts  # a fixture
from tests.runtime.graphs import eventually

pytestmark = pytest.mark.slow
LOADED_S = 90.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, which both hosts see: a file system that they share."""
    made = tmp_path_factory.mktemp("tiny") / "default"
    build_tiny(made)
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def exact(folder: Path, hosts: TwoHosts) -> Iterator[App]:
    with run_on(hosts, omni_graph_of(folder), STAGES[::2], STAGES[1::2]) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_transformers_answer(name: str, exact: App, oracle: Reference) -> None:
    check(exact, oracle, CASES[name])


def test_every_second_stage_is_there(exact: App) -> None:
    stages = exact.status()["stages"]
    assert [replica["host"] for name in STAGES for replica in stages[name]["replicas"]] == [HERE, THERE] * 4


@pytest.fixture(scope="module")
def app(folder: Path, hosts: TwoHosts) -> Iterator[App]:
    with run_on(hosts, omni_graph_of(folder, "low_latency"), STAGES[::2], STAGES[1::2]) as running:
        yield running


def answer(app: App, disturb: Callable[[], None], at: int = 0) -> tuple[Answer, int]:
    """An answer, disturbed once ``at`` packets have come, and how often it was replayed."""
    eventually(lambda: healthy(app), LOADED_S)
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
    made, retries = answer(app, lambda: None)
    assert retries == 0 and len(made.codes) > 40 and len(made.chunks) > 2
    return made


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_survives_the_death_of_any_stage(stage: str, app: App, hosts: TwoHosts, undisturbed: Answer) -> None:
    def kill() -> None:
        (replica,) = app.status()["stages"][stage]["replicas"]
        hosts.process(replica).kill()

    made, retries = answer(app, kill, at=30)
    assert retries == 1
    made.same_as(undisturbed)


def test_an_answer_survives_a_cut_of_a_second(app: App, hosts: TwoHosts, undisturbed: Answer) -> None:
    def cut() -> None:
        with hosts.cut():
            threading.Event().wait(1.0)

    made, retries = answer(app, cut, at=30)
    assert retries <= 1
    made.same_as(undisturbed)


def lose_every_stage_there(app: App) -> None:
    eventually(lambda: not any(app.status()["stages"][stage]["state"] == "ready" for stage in STAGES[1::2]))


@pytest.mark.parametrize("mute", ["", HERE, THERE], ids=["both ways", "here", "there"])
def test_an_answer_survives_a_cut_that_took_every_stage_there(
    mute: str, app: App, hosts: TwoHosts, undisturbed: Answer
) -> None:
    def cut() -> None:
        with hosts.mute(mute) if mute else hosts.cut():
            lose_every_stage_there(app)

    made, retries = answer(app, cut, at=30)
    assert retries == 1
    made.same_as(undisturbed)


def test_an_answer_survives_a_death_behind_the_cut(app: App, hosts: TwoHosts, undisturbed: Answer) -> None:
    def kill() -> None:
        (replica,) = app.status()["stages"]["talker"]["replicas"]
        with hosts.cut():
            hosts.process(replica).kill()
            lose_every_stage_there(app)

    made, retries = answer(app, kill, at=30)
    assert retries == 1
    made.same_as(undisturbed)
