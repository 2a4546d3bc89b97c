"""The fault matrix on the model, where no stage is to blame: the process that holds it, Ray's head, the wires, the callers.

Each meets three answers, or more, at several moments. Two hosts and what is between them: tests/ray/test_two_hosts_omni.py.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import zmq

import omni_graph as og
from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.spec import DeploySpec
from tests.cli.background import Background
from tests.cli.test_holder_killed import GONE, end, is_there
from tests.cli.test_up import Held
from tests.cli.test_up import state as state  # a fixture
from tests.files import few_files
from tests.links.relay import GOOD
from tests.links.test_slow_wire import SLOW, SlowLauncher
from tests.links.test_slow_wire import launcher as launcher  # a fixture
from tests.memory import little_memory as little_memory  # a fixture
from tests.nodes.qwen2_5_omni.apps import launch, omni_graph_of
from tests.nodes.qwen2_5_omni.around import LOADED_S, READ, Reading, Three, epilogue, whole_answer
from tests.nodes.qwen2_5_omni.test_recovery import STAGES, Answer, kill_stage
from tests.ray.test_head import outlive
from tests.runtime.fault_matrix import processes, replicas
from tests.runtime.graphs import eventually
from tests.runtime.test_attack_live import Strangers
from tests.runtime.test_fault_matrix_callers import GROWN_BYTES, resident
from tests.runtime.test_frozen_holder import LONG_S, SHORT_S, outlive_a_stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FEW_BYTES = 4096
STALLED_S = 60.0
PLACES, CALLERS = 2, 12
ATTACKS = 100
ASK = ("--text", "tell me", "--greedy")
LONG = ("--max-tokens", "2000", "--param", "talker.max_tokens=3000")
BRIEF = ("--max-tokens", "8", "--param", "talker.max_tokens=16")


@pytest.fixture(scope="module")
def app(tiny_folder: Path) -> Iterator[App]:
    with launch(tiny_folder, "low_latency", "processes") as running:
        yield running


# ---- the process that holds it


@pytest.mark.parametrize("seconds", [SHORT_S, LONG_S])
def test_a_holder_that_was_stopped_goes_on(seconds: float, tiny_folder: Path) -> None:
    outlive_a_stop(f"from tests.nodes.qwen2_5_omni.around import hold; hold({str(tiny_folder)!r})", seconds)


@pytest.mark.parametrize("how", ["killed", "out of memory"])
def test_a_holder_that_is_ended_takes_its_deployment_along(
    how: str,
    tiny_folder: Path,
    tmp_path: Path,
    state: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Three callers hear of it in one line, every process ends, and the next holder removes the files and answers."""
    group = request.getfixturevalue("little_memory") if how == "out of memory" else None
    monkeypatch.chdir(tmp_path)
    up = ("up", "qwen2_5_omni", "--launcher", "processes", "--set", f"checkpoint={tiny_folder}")
    with ExitStack() as stack:
        held = Held(stack.enter_context(Background(tmp_path, *up)), capsys)
        asked = [("run", "--url", held.url, *ASK, *LONG, f"--speech={number}.wav") for number in range(3)]
        callers = [stack.enter_context(Background(tmp_path, *words)) for words in asked]
        assert all(caller.read(1) for caller in callers[:2])  # after the first output
        eventually(lambda: held.status()["requests"]["running"] == 3)
        holder = held.background.process
        left = psutil.Process(holder.pid).children(recursive=True)
        assert len(left) >= len(STAGES)
        end(held, group, state)
        assert [(caller.end(), caller.err) for caller in callers] == [(1, GONE)] * 3
        eventually(lambda: not any(map(is_there, left)))

        run, pythons = sorted(held.background.tmp.iterdir())  # the second is multiprocessing's, which never sweeps
        heir = Held(stack.enter_context(Background(tmp_path, *up, tmp=held.background.tmp)), capsys)
        assert not run.exists()
        answers = {heir.command("run", *ASK, *BRIEF, "--speech=a.wav").out for _ in range(20)}
        assert len(answers) == 1 and answers != {""}
        heir.background.signal(signal.SIGTERM)
        assert heir.background.end() == 0
        eventually(lambda: heir.background.left() == [pythons.name])


@pytest.mark.parametrize("stage", ["thinker", "bigvgan"])
def test_a_gateway_without_files_loses_no_answer(stage: str, app: App) -> None:
    """A stage that dies meanwhile cannot be started; the answers go on when it can."""
    three = Three.begin(app)
    with few_files(0):
        kill_stage(app, stage)
        eventually(lambda: [one["pid"] for one in app.status()["stages"][stage]["replicas"]] == [0])
    assert max(three.finish()) == 1
    epilogue(app)


# ---- Ray's head


@pytest.mark.parametrize(("fault", "seconds"), [("kill", 0.0), ("freeze", 5.0), ("freeze", 30.0)])
def test_answers_do_not_notice_what_becomes_of_rays_head(fault: str, seconds: float, tiny_folder: Path) -> None:
    imports = "from tests.ray.test_head import serve; from tests.nodes.qwen2_5_omni.around import Speaker"
    outlive(f"{imports}; speaker = Speaker({str(tiny_folder)!r})", fault, seconds)


# ---- the wires


def test_answers_over_slow_wires_are_whole_and_need_no_replay(
    tiny_folder: Path, app: App, launcher: SlowLauncher
) -> None:
    """50 ms +- 50 late, in pieces of one byte, 1 MB/s, between every two stages and to the Gateway."""
    right = whole_answer(app)
    plan = make_plan(omni_graph_of(tiny_folder, "low_latency"), DeploySpec.model_validate({}))
    with App(plan, Deployment(plan, launcher)) as slow:
        three = Three.begin(slow)
        three.right.same_as(right)
        assert three.finish() == [0, 0, 0]
        assert len(launcher.relays) == len(STAGES) + 1 and all(relay.seen for relay in launcher.relays)
        for relay in launcher.relays:
            assert relay.wire == SLOW
            relay.wire = GOOD
        epilogue(slow)


class Noise(Strangers):
    """A stranger who writes to a stage of the model."""

    def bad(self, chance: random.Random) -> list[list[bytes]]:
        header = self.hello[0]
        messages = [
            [chance.randbytes(chance.randint(1, 60))],
            [header[: chance.randrange(1, len(header))]],
            [header, b"one part too many"],
            self.hello,
        ]
        return [self.hello, chance.choice(messages)]


@pytest.mark.parametrize("stage", STAGES)
def test_answers_do_not_notice_what_strangers_say_to_a_stage(stage: str, app: App, tmp_path: Path) -> None:
    three, chance = Three.begin(app), random.Random(5)
    before = replicas(app)
    with zmq.Context() as context:
        (victim,) = app.status()["stages"][stage]["replicas"]
        strangers = Noise(app, context, tmp_path / "unpickled", victim["id"])
        for _ in range(ATTACKS):
            strangers.refused(strangers.bad(chance))
        strangers.cut_off()
    assert three.finish() == [0, 0, 0]
    assert [one["pid"] for one in replicas(app)] == [one["pid"] for one in before]
    epilogue(app)


# ---- the callers


def test_a_caller_that_does_not_read_disturbs_nobody_and_has_its_answer_in_the_end(tiny_folder: Path) -> None:
    """For a minute: it is paused, nothing more is kept of it, and its neighbours are served by the same stages."""
    beside = processes()
    with launch(tiny_folder, "low_latency", "processes", limits={"output_bytes": FEW_BYTES}) as app:
        right, short = whole_answer(app), whole_answer(app, short=True)
        stalled = Reading.begin(app)
        stalled.read(READ[-1])
        eventually(lambda: app.paused == 1, LOADED_S)
        whole_answer(app)
        before, until = resident(app), time.monotonic() + STALLED_S
        while time.monotonic() < until:
            whole_answer(app, short=True).same_as(short)
            assert app.paused == 1
        assert resident(app) - before < GROWN_BYTES
        assert stalled.finish(right) == 0
        epilogue(app, beside)


@pytest.mark.parametrize("killed", ["", "thinker", "talker", "bigvgan"])
def test_three_times_as_many_callers_as_there_are_places(killed: str, tiny_folder: Path) -> None:
    """Whoever is refused comes again: all have the right answers, and no more than allowed are in the deployment."""
    beside = processes()
    with (
        launch(tiny_folder, "low_latency", "processes", max_requests=PLACES, queue=PLACES) as app,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        right = whole_answer(app, short=True)
        callers = [pool.submit(insist, app, right) for _ in range(CALLERS)]
        if killed:
            kill_stage(app, killed)
        most = {"running": 0, "waiting": 0}
        while wait(callers, timeout=0.01).not_done:
            requests = app.status()["requests"]
            most = {key: max(most[key], requests[key]) for key in most}
        assert sum(caller.result() for caller in callers) > 0
        # those that are replayed wait too
        assert most["running"] == PLACES and PLACES <= most["waiting"] <= (2 if killed else 1) * PLACES
        epilogue(app, beside)


def insist(app: App, right: Answer, answers: int = 3) -> int:
    """So many answers; how often there was no room for one."""
    refused = 0
    while answers:
        try:
            reading = Reading.begin(app, short=True)
        except og.Overloaded as error:
            assert error.stage in STAGES and 1 <= error.retry_after_s <= 30 and error.retryable
            refused += 1
            threading.Event().wait(0.005)
            continue
        assert reading.finish(right) <= 1
        answers -= 1
    return refused
